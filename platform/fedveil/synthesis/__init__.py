"""Synthetic faces: a generator learns from public people, and labelled faces of nobody are sampled from it."""
