"""From photographs and landmarks to a folder of aligned faces, which `data=folder` reads and `fedveil data pack` packs.

Landmarks come from a detector (`fedveil.data.detection`) or a list (`fedveil.data.landmarks`).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedveil import checks
from fedveil.data import alignment, decode, files, landmarks
from fedveil.data.stores import Problem


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was written, and what was left out with the reasons."""

    written: int
    problems: tuple[Problem, ...]


class Find(Protocol):
    """Where landmarks come from."""

    def names(self, photographs: Path) -> list[str]:
        """Return the pictures, PERSON/PICTURE, that faces are to be found in; a wrong folder is refused."""

    def problems(self, photographs: Path) -> list[Problem]:
        """Return what is left out from the start."""

    def points(self, name: str, picture: Image.Image) -> NDArray[np.float64]:
        """Return the landmarks (5, 2) of a picture's face; raise `NoFace` where there is none."""


class NoFace(Exception):
    """No face was found in a picture; the message says it in a few words."""


class Listed:
    """Landmarks of a CSV file."""

    def __init__(self, path: Path) -> None:
        self._found = {one.file: one.points for one in landmarks.read(path)}

    def names(self, photographs: Path) -> list[str]:
        """Return what is listed, whether it is there or not."""
        return [*self._found]

    def problems(self, photographs: Path) -> list[Problem]:
        """Return the pictures that no line has landmarks of."""
        return [Problem(name, "no landmarks") for name in pictures_of(photographs) if name not in self._found]

    def points(self, name: str, picture: Image.Image) -> NDArray[np.float64]:
        """Return what is listed of a picture."""
        return self._found[name]


def align(
    photographs: Path,
    find: Find,
    out: Path,
    size: int = 112,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Write OUT/PERSON/PICTURE.png of every face that is found; `out` is whole, or not there.

    Raises:
        fedveil.checks.UserError: no folder, an `out` that is there, two pictures that would have one name, or nothing
            to write.
        OSError: naming what could not be written; nothing is left.
    """
    checks.multiple_of(8, size=size)
    if files.kind(photographs) != files.FOLDER:
        raise checks.UserError(f"--photographs {photographs} is {files.kind(photographs)}; expected a folder.")
    if os.path.lexists(out):
        raise checks.UserError(f"{out} is there already; name a new folder with --out, or remove it.")
    if not out.absolute().parent.is_dir():
        raise checks.UserError(f"--out {out}: there is no folder {out.absolute().parent}.")
    names = find.names(photographs)
    made: dict[str, str] = {}
    for name in names:
        if (other := made.setdefault(_target(name).casefold(), name)) is not name:
            raise checks.UserError(f"{other!a} and {name!a} would both become {_target(name)!a}; rename one of them.")
    problems, written = find.problems(photographs), 0
    work = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        for done, name in enumerate(names, start=1):
            try:
                picture = decode.upright(photographs / name)
                points = find.points(name, picture)
                if landmarks.off(points) > landmarks.FARTHEST:
                    raise NoFace("the landmarks that were found are no face's")
                pixels = alignment.aligned(picture, points, size)
            except (decode.Undecodable, NoFace) as error:
                problems.append(Problem(name, str(error)))
            else:
                target = work / _target(name)
                target.parent.mkdir(exist_ok=True)
                Image.fromarray(pixels.transpose(1, 2, 0)).save(target)
                written += 1
            progress(done, len(names))
        if not written:
            raise checks.UserError(f"{photographs} gives no aligned face: {decode.summary(problems)}.")
        work.chmod(0o755)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Summary(written, tuple(problems))


def _target(name: str) -> str:
    return str(Path(name).with_suffix(".png"))


def pictures_of(photographs: Path) -> list[str]:
    """Return what is called like a picture in the folders below, as PERSON/PICTURE."""
    people = [path for path in files.listing(photographs) if files.kind(path) == files.FOLDER]
    names = [f"{person.name}/{file.name}" for person in people for file in files.listing(person)]
    return [name for name in names if Path(name).suffix.lower() in decode.SUFFIXES]
