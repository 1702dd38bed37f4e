"""Marks of settings whose type alone does not say what they take."""

from __future__ import annotations

import dataclasses

INFINITE = "may be inf"
"""Mark of a number that may be infinite; every other number is finite, and none is nan."""

FOLDER = "a folder of this machine"
"""Mark of a folder that is made where it is missing: a mistyped word would make another one, silently."""

HERE = "of this machine alone"
"""Mark of a section that says where a run is computed or kept: it never leaves the machine, whatever is in it."""

NO_PLACE = "a text that names no place"
"""Mark of a text that other machines may read: it names no file, folder or address of the one that wrote it."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Mark of a text that says where something is: it never leaves its machine, and is not read where it arrives.

    A setting of a run that takes any text carries this mark or `NO_PLACE`, or is in a section that is `HERE`.

    Attributes:
        words: values that are no places, and are sent.
        beside: truth values of the same block that speak of what is there; they stay with it.
    """

    words: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


PLACE = Place()
