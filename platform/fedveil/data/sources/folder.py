"""A folder of pictures, one sub-folder per person."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fedveil import checks
from fedveil.data import decode
from fedveil.data.faces import FaceSet, Problem, from_array
from fedveil.data.held_out import HeldOut
from fedveil.data.split import Split

_LAYOUT = "expected ROOT/PERSON/PICTURE.jpg (or png, bmp, webp, tif, pgm, ppm), one folder per person"


@dataclasses.dataclass(frozen=True)
class Folder(HeldOut):
    """A folder of pictures, one sub-folder per person: ROOT/PERSON/*.jpg, aligned faces.

    Every file is decoded once, when the set is loaded: a broken file is found before training starts, is left out and
    listed. Pictures stay in memory as uint8 at the target size (3 * size^2 bytes each).

    Attributes:
        root: the folder.

    The other settings are those of `HeldOut`.
    """

    root: str = ""

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the split; `size_hint` replaces `size`.

        Raises:
            UserError: a missing or empty root, nobody with enough pictures, or evaluation that nobody declared public.
        """
        self.require_declaration()
        return self.split(read_folder(self.root, size_hint or self.size), seed)


def read_folder(root: str, size: int) -> FaceSet:
    """Return every decodable picture of ROOT/PERSON/*, sorted by name; what was left out is in `skipped`."""
    top = Path(root).expanduser()
    if not root or not top.is_dir():
        raise checks.UserError(f"data.root={root!r} is not a folder; {_LAYOUT}.")
    images, labels, names, keys, originals = [], [], [], [], []
    problems: list[Problem] = []
    grey = 0
    for person in sorted(path for path in top.iterdir() if not path.name.startswith(".")):
        if not person.is_dir():
            problems.append(Problem(person.name, "not inside a person's folder"))
            continue
        names.append(person.name)
        for file in sorted(path for path in person.iterdir() if not path.name.startswith(".")):
            name = f"{person.name}/{file.name}"
            if file.is_dir() or file.suffix.lower() not in decode.SUFFIXES:
                problems.append(Problem(name, "a folder" if file.is_dir() else f"not a picture ({file.suffix!r})"))
                continue
            try:
                decoded = decode.decode(file, size)
            except decode.Undecodable as error:
                problems.append(Problem(name, str(error)))
                continue
            state = file.stat()
            images.append(decoded.pixels)
            labels.append(len(names) - 1)
            keys.append(f"{file.resolve()}:{state.st_size}:{state.st_mtime_ns}:{size}")
            originals.append(decoded.original)
            grey += decoded.grey
    if not images:
        raise checks.UserError(f"data.root={root!r} holds no picture ({decode.summary(problems)}); {_LAYOUT}.")
    faces = from_array(np.stack(images), labels, names, keys=keys, skipped=tuple(problems))
    return dataclasses.replace(faces, notes=decode.notes(originals, grey, size))


METHOD = Folder
