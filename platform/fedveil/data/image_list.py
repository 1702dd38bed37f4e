"""Lists of pictures with labels (`.lst`): text with tabs between columns, in either of the two orders that are about.

    12    3.000000    ann/1.jpg       MXNet's tools: a number, one label or more, a path
    1     ann/1.jpg   3               InsightFace's: whether it is aligned, a path, a label; perhaps a box and landmarks

The first line tells which. Sources: `tools/im2rec.py` of https://github.com/apache/mxnet, `face_preprocess.py` and
`face2rec2.py` of https://github.com/deepinsight/insightface.
"""

from __future__ import annotations

import dataclasses
import math
import posixpath
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import files

LARGEST = 2**24  # beyond it a float32 label is no longer exact
_LONG = 10_000  # bytes of a line
_BOX, _LANDMARKS = 4, 10  # further columns of InsightFace's


@dataclasses.dataclass(frozen=True, eq=False)
class ImageList:
    """The pictures of a list, in its order.

    Attributes:
        files: paths from the list's folder, no two alike.
        labels: (N,) who is on each, from 0.
        nobodys: how many more were listed with a label below 0: packers mark so what is of nobody.
    """

    files: list[str]
    labels: NDArray[np.int64]
    nobodys: int


def read_list(path: Path) -> ImageList:
    """Return what a list holds; no picture is looked for.

    Raises:
        fedveil.checks.UserError: naming the file and its line: columns that are none of either order, a label that is
            no number of a person, a path that leaves the list's folder or is there twice, or a picture to be aligned.
    """
    found, labels, lines, nobodys = [], array("q"), array("q"), 0
    insightface: bool | None = None
    for number, fields in _lines(path):
        if len(fields) < 3:
            _refuse(
                path, number, "NUMBER, LABEL, PATH or ALIGNED, PATH, LABEL with tabs between them", "\t".join(fields)
            )
        if insightface is None:
            insightface = _number(fields[1]) is None
        label, file = _insightface(path, number, fields) if insightface else _mxnet(path, number, fields)
        if label < 0:
            nobodys += 1
            continue
        found.append(_below(path, number, file))
        labels.append(label)
        lines.append(number)
    if not found:
        raise checks.UserError(f"{path} lists no picture of anybody; copy it again, or choose another list.")
    if len(set(found)) < len(found):
        _refuse_twice(path, found, lines)
    return ImageList(found, np.array(labels, np.int64), nobodys)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line that is not blank."""
    try:
        with files.opened(path) as stream:
            number = 0
            while line := stream.readline(_LONG):
                number += 1
                if len(line) == _LONG:
                    _refuse(path, number, f"fewer than {_LONG} bytes", line[:60].decode("utf-8", "replace"))
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    _refuse(path, number, "text in UTF-8", line[:60].decode("utf-8", "replace"))
                if text.strip():
                    yield number, [field.strip() for field in text.strip("\r\n").split("\t")]
    except OSError as error:
        raise checks.UserError(f"{path} is {files.reason(error)}; copy it there again.") from error


def _mxnet(path: Path, number: int, fields: list[str]) -> tuple[int, str]:
    """Return label and path; of several labels the first says who it is, as in InsightFace's records."""
    if not (fields[0].isascii() and fields[0].isdigit()):
        _refuse(path, number, "a whole number in the first column", fields[0])
    if any(_number(field) is None for field in fields[1:-1]):
        _refuse(path, number, "labels between the number and the path", "\t".join(fields[1:-1]))
    return _label(path, number, fields[1]), fields[-1]


def _insightface(path: Path, number: int, fields: list[str]) -> tuple[int, str]:
    """Return label and path."""
    more = fields[3:]
    if len(more) not in (0, _BOX, _BOX + _LANDMARKS) or any(_number(field) is None for field in more):
        _refuse(path, number, "ALIGNED, PATH, LABEL, and no more than a box and five landmarks", "\t".join(fields))
    if fields[0] == "0":
        raise checks.UserError(
            f"{path}, line {number}: {fields[1][:60]!a} is not aligned (0 in the first column); align the pictures "
            "(fedveil data align) and list what that wrote."
        )
    if fields[0] != "1":
        _refuse(path, number, "1 (aligned) or 0 in the first column", fields[0])
    return _label(path, number, fields[2]), fields[1]


def _label(path: Path, number: int, field: str) -> int:
    value = _number(field)
    if value is None or value != math.floor(value) or value >= LARGEST:
        _refuse(path, number, f"a whole number below {LARGEST} for a label", field)
    return int(value)


def _number(field: str) -> float | None:
    """Return the finite number that a field is, else None."""
    try:
        value = float(field) if field.isascii() and "_" not in field else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _below(path: Path, number: int, file: str) -> str:
    """Return a path in its plain form: one picture has one name, and lies below the list's folder."""
    plain = posixpath.normpath(file.replace("\\", "/")) if file.isprintable() else ""
    if not file or plain in ("", ".", "..") or plain.startswith(("/", "../")) or "//" in plain or ":" in plain[:2]:
        _refuse(path, number, f"a path below the folder of {path.name} (put the list where its paths start)", file)
    return plain


def _refuse(path: Path, number: int, expected: str, got: str) -> NoReturn:
    raise checks.UserError(f"{path}, line {number}: expected {expected}, got {got[:60]!a}; correct the list.")


def _refuse_twice(path: Path, found: list[str], lines: array[int]) -> NoReturn:
    first: dict[str, int] = {}
    for file, number in zip(found, lines, strict=True):
        if file in first:
            raise checks.UserError(
                f"{path}, lines {first[file]} and {number}: {file[:60]!a} is there twice; keep one of them."
            )
        first[file] = number
    raise AssertionError("unreachable: some path is there twice")
