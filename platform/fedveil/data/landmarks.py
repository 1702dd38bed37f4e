"""Five landmarks of faces, from a CSV file, one face a line.

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
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import alignment, files
from fedveil.data.names import fault

COLUMNS = ("file", *(f"{axis}{point}" for point in range(1, 6) for axis in "xy"))
FARTHEST = 20.0
"""Pixels of 112 that landmarks may be off the template, root of the mean square; those of a profile are about 10."""


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """One line: where in the list, whose picture, and its points (5, 2)."""

    line: int
    file: str
    points: NDArray[np.float64]


def read(path: Path) -> list[Landmarks]:
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
    apart = off(points)
    if apart > FARTHEST:
        raise _refusal(
            path, line, "the eyes, the nose and the corners of a mouth, left in the picture first; these points are "
            f"{apart:.0f} pixels of 112 away from any face",
        )  # fmt: skip
    return Landmarks(line, name, points)


def off(points: NDArray[np.float64]) -> float:
    """Return how far points stay off the template, whatever similarity moves them there."""
    try:
        there = alignment.similarity(points)
    except checks.UserError:
        return math.inf
    moved = points @ there[:, :2].T + there[:, 2]
    return float(np.sqrt(((moved - alignment.TEMPLATE) ** 2).sum(1).mean()))
