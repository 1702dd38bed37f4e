"""Marks of settings whose type alone does not say what they take."""

INFINITE = "may be inf"
"""Mark of a number that may be infinite; every other number is finite, and none is nan."""

FOLDER = "a folder of this machine"
"""Mark of a folder that is made where it is missing: a mistyped word would make another one, silently."""
