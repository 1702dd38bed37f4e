"""Heads, one file each: margin losses over class centres that never leave a client."""
