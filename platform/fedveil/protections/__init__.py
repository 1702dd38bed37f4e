"""Protections, one file each: the client-side map from an image to what may leave."""
