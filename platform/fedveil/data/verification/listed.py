"""An owner's own verification pairs: a CSV file with two pictures, whether they show one person, and a fold, in a line.

    left,right,same,fold
    ann/1.jpg,ann/2.jpg,1,0
    ann/1.jpg,bob/1.png,0,0

The header names the columns, in any order; others are passed over. Paths start at the folder of the CSV file. `same` is
1, true or same, or 0, false or different; `fold` is a whole number and may be left out with its column: folds are then
made without a person in common. Who is who follows from the pairs: same pairs join people.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import decode, files, names
from fedveil.data.faces import FaceSet
from fedveil.data.numbered import Numbered
from fedveil.data.pairs import PairSet, disjoint_folds, joined_people
from fedveil.data.stores import CachedStore, Problem, Unreadable

SUFFIX = ".csv"
_NEEDED, _FOLD = ("left", "right", "same"), "fold"
_ANSWERS = {"1": True, "true": True, "same": True, "0": False, "false": False, "different": False}
_WHOLE = re.compile("[0-9]{1,6}")


@dataclasses.dataclass(frozen=True)
class _Row:
    """One line: the two pictures as they are written, the answer and the fold."""

    line: int
    left: str
    right: str
    same: bool
    fold: int


def read(path: Path, size: int, training: str = "") -> PairSet:
    """Return the pairs of a CSV file; that every picture is there is checked now, each is decoded when first used.

    Raises:
        fedveil.checks.UserError: naming the file and its line: a missing column, a field that is none of its kind, a
            picture that is not there or lies in `training`, a pair of one picture or listed twice, or pairs that
            contradict each other.
    """
    rows, folded = _rows(path)
    place: dict[str, int] = {}
    for row in rows:
        for written in (row.left, row.right):
            if written not in place:
                _there(path, row.line, written, training)
                place[written] = len(place)
    seen: dict[tuple[int, int], int] = {}
    for row in rows:
        pair = (min(place[row.left], place[row.right]), max(place[row.left], place[row.right]))
        if pair[0] == pair[1]:
            _refuse(path, row.line, f"two pictures, not {row.left!a} twice")
        if (before := seen.setdefault(pair, row.line)) != row.line:
            _refuse(path, row.line, f"a pair of its own, not that of line {before} again")
    left, right = np.array([place[row.left] for row in rows]), np.array([place[row.right] for row in rows])
    same = np.array([row.same for row in rows])
    if same.all() or not same.any():
        raise checks.UserError(f"{path}: all {same.size} pairs are of {'one person' if same[0] else 'two people'}.")
    people = joined_people(len(place), left[same], right[same])
    wrong = np.flatnonzero((people[left] == people[right]) & ~same)
    if wrong.size:
        _refuse(path, rows[wrong[0]].line, "pairs that agree; other lines join these two pictures to one person")
    folds = np.array([row.fold for row in rows]) if folded else disjoint_folds(people[left], people[right])
    return PairSet(_faces(path, list(place), people, size), left, right, same, folds, declared_public=True)


def _refuse(path: Path, line: int, expected: str) -> NoReturn:
    raise checks.UserError(f"{path}, line {line}: expected {expected}.")


def _rows(path: Path) -> tuple[list[_Row], bool]:
    """Return the lines, and whether they have folds."""
    try:
        with files.opened(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise checks.UserError(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it so."
        ) from error
    except OSError as error:
        raise checks.UserError(f"{path} is {files.reason(error)}; copy it there again.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in _NEEDED if name not in header]
        if missing:
            raise checks.UserError(
                f"{path} lacks the columns {missing} in its first line, which has {header}; expected "
                f"{','.join(_NEEDED)} and perhaps {_FOLD}."
            )
        if twice := {name for name in header if header.count(name) > 1 and name in (*_NEEDED, _FOLD)}:
            raise checks.UserError(
                f"{path} names the columns {sorted(twice)} twice in its first line; keep one of each."
            )
        rows = [*_checked(path, reader, header)]
    except csv.Error as error:
        _refuse(path, reader.line_num, f"fields with commas between them ({error})")
    if not rows:
        raise checks.UserError(f"{path} holds no pair; expected lines below the header.")
    return rows, _FOLD in header


def _checked(path: Path, reader: Any, header: list[str]) -> Iterator[_Row]:
    for fields in reader:
        number = reader.line_num
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            _refuse(path, number, f"{len(header)} fields as in the header, got {len(fields)}")
        row = {name: field.strip() for name, field in zip(header, fields, strict=True)}
        if row["same"].lower() not in _ANSWERS:
            _refuse(path, number, f"same to be 1 or 0, true or false, same or different, got {row['same']!a}")
        if _FOLD in row and not _WHOLE.fullmatch(row[_FOLD]):
            _refuse(path, number, f"fold to be a whole number from 0, got {row[_FOLD]!a}")
        yield _Row(number, row["left"], row["right"], _ANSWERS[row["same"].lower()], int(row.get(_FOLD, 0)))


def _there(path: Path, line: int, written: str, training: str) -> None:
    if not written or not written.isprintable():
        _refuse(path, line, f"the name of a picture, got {written!a}")
    kind = files.kind(path.parent / written)
    if kind != files.FILE:
        _refuse(path, line, f"a picture that is there; {written!a} is {kind}")
    if training and files.absolute(str(path.parent / written)).startswith(training.rstrip(os.sep) + os.sep):
        _refuse(
            path, line, f"a picture of somebody who does not train; {written!a} lies in {training}: move that person"
        )


def _faces(path: Path, written: list[str], people: NDArray[np.int64], size: int) -> FaceSet:
    stem = names.printable(path.stem)

    def where(index: int) -> Path:
        return path.parent / written[index]

    def one(index: int) -> NDArray[np.uint8]:
        try:
            return decode.decode(where(index), size).pixels
        except decode.Undecodable as error:
            raise Unreadable(
                Problem(written[index], f"cannot be decoded ({error})"), "replace it", str(path)
            ) from error

    def key(index: int) -> str:
        try:
            state = os.stat(where(index))
        except OSError as error:
            raise Unreadable(Problem(written[index], files.reason(error)), "replace it", str(path)) from error
        return f"{files.absolute(str(where(index)))}:{state.st_size}:{state.st_mtime_ns}:{size}"

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([one(i) for i in index.tolist()])

    return FaceSet(
        store=CachedStore(len(written), (size, size), make, key, lambda index: f"{stem}/{written[index]}"),
        index=np.arange(len(written)),
        labels=people,
        names=Numbered(f"{stem} person ", range(int(people.max()) + 1)),
        size=(size, size),
        public=True,
    )
