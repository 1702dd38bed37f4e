"""Files that hold verification pairs, for `evaluation.pairs` and `fedveil verify`: one file here is one kind of them.

A kind's module has `SUFFIX`, how the names of its files end, and `read(path, size, training) -> PairSet`, which checks
everything before it returns. Adding a kind is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from fedveil import checks
from fedveil.data import files
from fedveil.data.pairs import PairSet


class Kind(Protocol):
    """What a module of this folder is."""

    SUFFIX: str

    def read(self, path: Path, size: int, training: str) -> PairSet:
        """Return the pairs of a file, pictures at `size` pixels, decoded when first used; none lies in `training`."""
        ...


def kinds() -> dict[str, Kind]:
    """Return the modules of this folder by the suffix of their files.

    >>> sorted(kinds())
    ['.bin', '.csv']
    """
    found = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    loaded = [cast(Kind, importlib.import_module(f"{__name__}.{name}")) for name in sorted(found)]
    return {kind.SUFFIX: kind for kind in loaded}


def read(
    place: str, size: int, declared_public: bool, training: str = "", setting: str = "evaluation.pairs"
) -> PairSet:
    """Return the verification pairs of a file, whatever its kind.

    Args:
        place: the file, as `setting` says it.
        size: height and width of the pictures, pixels.
        declared_public: the user's word that these people's pictures are public.
        training: absolute name of the folder or file whose people train; pairs of its pictures are refused.
        setting: what messages call the place.

    Raises:
        fedveil.checks.UserError: no such file, a kind that is not known, a damaged one, or pairs that nobody declared
            public.
    """
    known = kinds()
    path = files.place(place)
    kind = known.get(path.suffix.lower())
    if kind is None:
        raise checks.UserError(f"{setting}={place!r} is no file of verification pairs: expected {' or '.join(known)}.")
    found = files.kind(path)
    if found != files.FILE:
        raise checks.UserError(f"{setting}={place!r} is {found}; expected a file of verification pairs.")
    if not declared_public:
        raise checks.UserError(
            f"{setting}={place!r} measures accuracy on real people's faces in the open, and nobody has said that they "
            "are public. Say so with evaluation.pairs_are_public=true, or evaluate on drawn faces."
        )
    return kind.read(path, size, training)
