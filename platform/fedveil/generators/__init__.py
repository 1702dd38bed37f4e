"""Generators of faces: networks that a run may train instead of a recogniser. One file is one generator."""
