"""From photographs and landmarks to a folder of aligned faces, which `data=folder` reads and `fedveil data pack` packs.

Landmarks come from a detector (`fedveil.data.detection`) or a CSV file, one face a line:

    file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5
    ann/holiday.jpg,212.5,180,268,181.5,240,214,219,240.5,262,241

`file` is PERSON/PICTURE below the folder of photographs. The points are the two eyes' centres, the nose's tip and the
corners of the mouth, left in the picture first, in pixels of the upright picture, whose first pixel's centre is (0, 0).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
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
from fedveil.data import alignment, decode, files
from fedveil.data.names import fault
from fedveil.data.stores import Problem

COLUMNS = ("file", *(f"{axis}{point}" for point in range(1, 6) for axis in "xy"))
_FARTHEST = (
    20.0  # pixels of 112 that landmarks may be off the template, root of the mean square; a profile has about 10
)


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """One line: where in the list, whose picture, and its points (5, 2)."""

    line: int
    file: str
    points: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was written, and what was left out with the reasons."""

    written: int
    problems: tuple[Problem, ...]


def read_landmarks(path: Path) -> list[Landmarks]:
    """Return the landmarks of a CSV file, checked.

    Raises:
        fedveil.checks.UserError: naming the file and the line: a missing column, a name that is not PERSON/PICTURE, a
            picture that is listed twice, or points that are no face's.
    """
    try:
        with files.opened(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise checks.UserError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise checks.UserError(f"--landmarks {path} is {files.reason(error)}; expected a CSV file.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, Landmarks] = {}
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise checks.UserError(
                f"{path} lacks the columns {missing} in its first line; expected {','.join(COLUMNS)}."
            )
        for row in reader:
            one = _checked(path, reader.line_num, row)
            if one.file in found:
                before = found[one.file].line
                raise _refusal(path, one.line, f"a picture of its own, not that of line {before} again: one face each")
            found[one.file] = one
    except csv.Error as error:
        raise _refusal(path, reader.line_num, f"fields with commas between them ({error})") from error
    if not found:
        raise checks.UserError(f"{path} lists no face.")
    return list(found.values())


def _refusal(path: Path, line: int, expected: str) -> checks.UserError:
    return checks.UserError(f"{path}, line {line}: expected {expected}.")


def _checked(path: Path, line: int, row: dict[str, str]) -> Landmarks:
    name = row["file"] or ""
    parts = name.split("/")
    if len(parts) != 2 or any(fault(part) for part in parts):
        raise _refusal(path, line, f"file to be PERSON/PICTURE below the folder, got {name[:60]!a}")
    try:
        numbers = [float(row[column]) for column in COLUMNS[1:]]
    except (TypeError, ValueError):
        raise _refusal(path, line, "ten numbers, x1,y1 to x5,y5") from None
    points = np.array(numbers).reshape(5, 2)
    off = _off(points)
    if off > _FARTHEST:
        raise _refusal(
            path, line, "the eyes, the nose and the corners of a mouth, left in the picture first; these points are "
            f"{off:.0f} pixels of 112 away from any face",
        )  # fmt: skip
    return Landmarks(line, name, points)


def _off(points: NDArray[np.float64]) -> float:
    """Return how far points stay off the template, whatever similarity moves them there."""
    try:
        there = alignment.similarity(points)
    except checks.UserError:
        return math.inf
    moved = points @ there[:, :2].T + there[:, 2]
    return float(np.sqrt(((moved - alignment.TEMPLATE) ** 2).sum(1).mean()))


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
        self._found = {one.file: one.points for one in read_landmarks(path)}

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
                if _off(points) > _FARTHEST:
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
