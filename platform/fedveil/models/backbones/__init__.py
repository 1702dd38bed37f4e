"""Backbones, one file each: protected image to embedding."""
