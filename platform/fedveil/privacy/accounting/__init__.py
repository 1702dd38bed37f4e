"""Accountants: what events cost. Each is fed (event, count), saved and restored exactly, and refuses the unknown."""
