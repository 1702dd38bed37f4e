"""The lists of Labeled Faces in the Wild: every line is checked, and a refusal names it and what was expected.

Fields are separated by tabs or blanks; a byte-order mark, any kind of line end and blank lines are fine.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import files

_NUMBER = re.compile("[0-9]{1,7}")


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Official pairs: left and right image, same person or not, and the fold; each (P,)."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class _Line:
    path: Path
    number: int
    fields: tuple[str, ...]

    def refuse(self, expected: str) -> NoReturn:
        shown = " ".join(self.fields)
        raise checks.UserError(f"{self.path}, line {self.number}: expected {expected}, got {shown!a}; copy it again.")

    def whole(self, place: int, expected: str) -> int:
        """Return a field as a number of at least 1."""
        if not _NUMBER.fullmatch(self.fields[place]) or int(self.fields[place]) < 1:
            self.refuse(expected)
        return int(self.fields[place])


def read_folds(path: Path) -> list[list[str]]:
    """Return people.txt: the people of each fold. It begins with the number of folds, a fold with that of its people.

    Raises:
        UserError: a missing header, a list that is too short or too long, or a person listed twice.
    """
    lines = _lines(path)
    folds = _count(lines, 0, path, "the number of folds alone")
    found, at = [], 1
    for fold in range(folds):
        length = _count(lines, at, path, f"the number of people of fold {fold + 1} of {folds} alone")
        found.append(_people(lines, at + 1, length, path, f"fold {fold + 1} of {folds}"))
        at += 1 + length
    _end(lines, at, path, f"{folds} folds")
    _once(lines[1:at])
    return found


def read_people(path: Path) -> list[str]:
    """Return peopleDevTrain.txt or peopleDevTest.txt: its people. It begins with their number.

    Raises:
        UserError: a missing header, a list that is too short or too long, or a person listed twice.
    """
    lines = _lines(path)
    length = _count(lines, 0, path, "the number of people alone")
    found = _people(lines, 1, length, path, "the list")
    _end(lines, 1 + length, path, f"{length} people")
    _once(lines[1:])
    return found


def read_pairs(path: Path, place: Mapping[str, int], folded: bool) -> Pairs:
    """Return pairs.txt, which begins with `FOLDS N`, or where it is not `folded` pairsDevTest.txt, with `N`.

    A fold holds N lines `NAME I J`, two pictures of one person, and N lines `NAME I OTHER J`. `place` says where each
    picture NAME_0001 is.

    Raises:
        UserError: a missing header, another number of lines, a line that is no pair, a picture that is not there, a
            pair of one picture, or a pair that is listed twice.
    """
    lines = _lines(path)
    header = "FOLDS N, such as `10 300`" if folded else "N alone, such as `500`"
    expected = f"the header {header}: how many pairs of one person{' a fold holds' if folded else ' there are'}"
    if not lines:
        raise checks.UserError(f"{path} is empty; expected {expected}.")
    if len(lines[0].fields) != 1 + folded:
        lines[0].refuse(expected)
    folds = lines[0].whole(0, expected) if folded else 1
    per_fold = 2 * lines[0].whole(-1, expected)
    whole = f"{folds * per_fold} pairs" + (f", {folds} folds of {per_fold // 2} and {per_fold // 2}" if folded else "")
    if len(lines) - 1 < folds * per_fold:
        raise checks.UserError(
            f"{path} ends after line {lines[-1].number} with {len(lines) - 1} pairs; its header promises {whole}: it "
            "is cut off, copy it again."
        )
    _end(lines, 1 + folds * per_fold, path, whole)
    rows = [(*_pair(line, place), number // per_fold) for number, line in enumerate(lines[1:])]
    table = np.array(rows, np.int64).reshape(-1, 4)
    for fold, same in enumerate(table[:, 2].reshape(folds, per_fold).sum(1).tolist()):
        if same != per_fold // 2:
            first, last = lines[1 + fold * per_fold].number, lines[(fold + 1) * per_fold].number
            raise checks.UserError(
                f"{path}, lines {first} to {last}: expected {per_fold // 2} pairs of one person and as many of two in "
                f"fold {fold + 1}, got {same} and {per_fold - same}; copy it again."
            )
    seen: dict[tuple[int, int], int] = {}
    for line, (left, right, *_) in zip(lines[1:], rows, strict=True):
        before = seen.setdefault((min(left, right), max(left, right)), line.number)
        if before != line.number:
            line.refuse(f"a pair of its own, not that of line {before} again")
    return Pairs(table[:, 0], table[:, 1], table[:, 2].astype(bool), table[:, 3])


def _pair(line: _Line, place: Mapping[str, int]) -> tuple[int, int, bool]:
    if len(line.fields) not in (3, 4):
        line.refuse("a pair, NAME I J or NAME I OTHER J")
    expected = "the pictures' numbers from 1, in NAME I J or NAME I OTHER J"
    name, other = line.fields[0], line.fields[-2] if len(line.fields) == 4 else line.fields[0]
    first, second = line.whole(1, expected), line.whole(-1, expected)
    if len(line.fields) == 4 and name == other:
        line.refuse("two people, or NAME I J for one")
    if name == other and first == second:
        line.refuse("two pictures, not one twice")
    found = []
    for who, number in ((name, first), (other, second)):
        stem = f"{who}_{number:04d}"
        if stem not in place:
            line.refuse(f"a picture that is there, not {stem!a}")
        found.append(place[stem])
    return found[0], found[1], name == other


def _people(lines: list[_Line], at: int, length: int, path: Path, part: str) -> list[str]:
    rows = lines[at : at + length]
    for row in rows:
        if len(row.fields) > 2 or (len(row.fields) == 2 and not _NUMBER.fullmatch(row.fields[1])):
            row.refuse(f"a person of {part}, NAME and a number of pictures")
        if len(row.fields) == 1 and _NUMBER.fullmatch(row.fields[0]):
            row.refuse(f"person {rows.index(row) + 1} of the {length} of {part}")
    if len(rows) < length:
        raise checks.UserError(
            f"{path} ends after line {lines[-1].number} with {len(rows)} of the {length} people of {part}: it is cut "
            "off, copy it again."
        )
    return [row.fields[0] for row in rows]


def _count(lines: list[_Line], at: int, path: Path, expected: str) -> int:
    if at >= len(lines):
        last = f"after line {lines[-1].number}" if lines else "before its first line"
        raise checks.UserError(f"{path} ends {last}, where {expected} was expected: it is cut off, copy it again.")
    if len(lines[at].fields) != 1:
        lines[at].refuse(expected)
    return lines[at].whole(0, expected)


def _end(lines: list[_Line], at: int, path: Path, promised: str) -> None:
    if len(lines) > at:
        lines[at].refuse(f"the end of the list after {promised}")


def _once(rows: list[_Line]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        if not _NUMBER.fullmatch(row.fields[0]):
            before = seen.setdefault(row.fields[0], row.number)
            if before != row.number:
                row.refuse(f"everybody once, not the person of line {before} again")


def _lines(path: Path) -> list[_Line]:
    try:
        with files.opened(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise checks.UserError(f"{path} is no UTF-8 text ({where}); save it as UTF-8.") from error
    except OSError as error:
        raise checks.UserError(f"{path} is {files.reason(error)}; copy it there again.") from error
    rows = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = []
    for number, row in enumerate(rows, start=1):
        # With tabs, a name may hold blanks.
        fields = [field.strip() for field in row.split("\t")] if "\t" in row.strip() else row.split()
        if row.strip():
            found.append(_Line(path, number, tuple(field for field in fields if field)))
    return found
