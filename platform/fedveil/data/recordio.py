"""RecordIO files of pictures with labels (`.rec`, `.idx`), as MXNet writes them, read without it and never as a whole.

A record begins on a multiple of 4 bytes with the magic 0xced7230a and a word of 32 bits: its length and, in the upper
three, whether it is whole (0) or the first (1), a middle (2) or the last part (3) of one whose bytes held the magic,
which is left out between parts. Its content begins with 24 bytes: flag, label (float32) and two ids; flag above 0 says
how many float32 labels follow instead. Pictures come after that. Sources: `include/dmlc/recordio.h` of
https://github.com/dmlc/dmlc-core, `python/mxnet/recordio.py` of https://github.com/apache/mxnet.

Memory holds a few numbers a record. Files are read at places, not mapped: one that is cut off meanwhile is an error
with a name, where a mapped one would end the process.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import files
from fedveil.data.indexed import read_numbers

MAGIC = 0xCED7230A
_LENGTH = (1 << 29) - 1
_HEAD = 8  # bytes of magic and length word
_LABELS = 24  # bytes of flag, label and ids
_PEEK = 42  # what is read of each record when a set is listed: to the second byte of a picture
_CHUNK = 8192  # records listed at a time


class Damaged(Exception):
    """A record is not what its place in the file promised; the message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """Every record of a file, by ascending key; arrays of one entry a record.

    Attributes:
        path: the `.rec` file.
        size: its bytes when it was listed.
        keys: the record's number.
        offsets: where it begins, bytes.
        flags: how many labels it says it has; 0 stands for one.
        labels: its label, or the first of them; float32.
        second: the second of several labels, else 0.
        empty: whether nothing follows the labels: no picture.
        picture: whether what follows begins like a JPEG or PNG; True where that was not seen.
    """

    path: Path
    size: int
    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    flags: NDArray[np.uint32]
    labels: NDArray[np.float32]
    second: NDArray[np.float32]
    empty: NDArray[np.bool_]
    picture: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.keys.size)


def listing(path: Path) -> Listing:
    """Return what a `.rec` file holds, by the `.idx` beside it, or by walking through it where there is none.

    Raises:
        fedveil.checks.UserError: naming file, line or record: an index that is no index, a record that two lines have,
            one that begins outside of the file or not with the magic, or a file that is cut off.
    """
    try:
        with files.opened(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            index = path.with_suffix(".idx")
            if files.kind(index) == "missing":
                offsets = _walked(stream.fileno(), path, size)
                keys, lines = np.arange(offsets.size), None
                if not keys.size:
                    _refuse(path, "it holds no record")
            else:
                keys, offsets, lines = _indexed(index, path, size)
            return _listed(stream.fileno(), path, size, keys, offsets, index if lines is not None else None)
    except OSError as error:
        raise checks.UserError(f"{path} is {files.reason(error)}; copy it there again.") from error


def _indexed(index: Path, path: Path, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return keys, offsets and line numbers of an index, by ascending key."""
    found = read_numbers(index, "KEY OFFSET")
    if not len(found):
        raise checks.UserError(
            f"{index} lists no record; copy it again, or remove it and {path.name} is walked through."
        )
    order = np.argsort(found[:, 0], kind="stable")
    keys, offsets, lines = found[order, 0], found[order, 1], order + 1
    for what, values in (("record", keys), ("byte", offsets)):
        by_value = np.argsort(values, kind="stable")
        again = np.flatnonzero(np.diff(values[by_value]) == 0)
        if again.size:
            first, second = sorted(lines[by_value[again[0] : again[0] + 2]].tolist())
            value = values[by_value[again[0]]]
            raise checks.UserError(
                f"{index}, lines {first} and {second}: {what} {value} is there twice; copy it again."
            )
    outside = np.flatnonzero((offsets + _HEAD > size) | (offsets % 4 != 0))
    if outside.size:
        one = int(outside[np.argmin(lines[outside])])
        why = "no record begins there" if offsets[one] % 4 else f"{path.name} ends at {size}"
        raise checks.UserError(
            f"{index}, line {lines[one]}: record {keys[one]} is said to begin at byte {offsets[one]}, but {why}: the "
            f"{path.name} is cut off, or the index is another file's. Copy both again."
        )
    return keys, offsets, lines


def _walked(descriptor: int, path: Path, size: int) -> NDArray[np.int64]:
    """Return where records begin, by their lengths."""
    found, at, inside = array("q"), 0, False
    while at < size:
        head = os.pread(descriptor, _HEAD, at)
        magic, word = struct.unpack("<II", head) if len(head) == _HEAD else (MAGIC, 0)
        if magic != MAGIC:
            _refuse(path, f"byte {at}, after {len(found)} records: no record begins there (magic {magic:#010x})")
        part, length = word >> 29, word & _LENGTH
        if (part in (2, 3)) is not inside or part > 3:
            _refuse(path, f"byte {at}, after {len(found)} records: a part of a record without the others")
        if not inside:
            found.append(at)
        inside, at = part in (1, 2), at + _HEAD + (length + 3 & ~3)
    if at > size or inside:
        _refuse(path, f"it ends at byte {size} in the middle of record {len(found) - 1}: it is cut off")
    return np.array(found, np.int64)


def _refuse(path: Path, reason: str) -> NoReturn:
    raise checks.UserError(f"{path}: {reason}; copy it again.")


def _listed(
    descriptor: int, path: Path, size: int, keys: NDArray[np.int64], offsets: NDArray[np.int64], index: Path | None
) -> Listing:
    """Return the listing of records at these places, each record's beginning checked."""
    parts = [_peeked(descriptor, path, size, k, o, index) for k, o in _chunks(keys, offsets)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Listing(path, size, keys, offsets, *columns)


def _chunks(keys: NDArray[np.int64], offsets: NDArray[np.int64]) -> Iterator[tuple[Any, Any]]:
    for start in range(0, keys.size, _CHUNK):
        yield keys[start : start + _CHUNK], offsets[start : start + _CHUNK]


def _peeked(
    descriptor: int, path: Path, size: int, keys: NDArray[np.int64], offsets: NDArray[np.int64], index: Path | None
) -> tuple[NDArray[Any], ...]:
    """Return flags, labels, second labels, and whether records are empty and begin like pictures."""
    seen = bytearray().join(os.pread(descriptor, _PEEK, at).ljust(_PEEK, b"\0") for at in offsets.tolist())
    rows = np.frombuffer(seen, np.uint8).reshape(-1, _PEEK)

    def field(start: int, kind: str) -> NDArray[Any]:
        return np.ascontiguousarray(rows[:, start : start + 4]).view(kind).ravel()

    magic, word = field(0, "<u4"), field(4, "<u4")
    part, length = word >> 29, (word & _LENGTH).astype(np.int64)
    lengths = length.copy()
    for one in np.flatnonzero((magic == MAGIC) & (part == 1)).tolist():  # labels may be in a later part
        try:
            whole = _whole(descriptor, int(offsets[one]), size)
        except Damaged as error:
            _refuse(path, f"record {keys[one]} at byte {offsets[one]}: {error}")
        lengths[one] = len(whole)
        rows[one, _HEAD:] = np.frombuffer(whole[: _PEEK - _HEAD].ljust(_PEEK - _HEAD, b"\0"), np.uint8)
    flags, labels = field(8, "<u4"), field(12, "<f4")
    body = lengths - _LABELS - 4 * np.minimum(flags, 2**28).astype(np.int64)
    wrong = {
        "does not begin with the magic of a record": magic != MAGIC,
        "begins in the middle of a record": part > 1,
        f"ends after the last byte of {path.name} ({size}): the file is cut off": offsets + _HEAD + length > size,
        "is too short for its labels": body < 0,
    }
    for reason, where in wrong.items():
        if where.any():
            one = int(np.argmax(where))
            by = f" (by {index.name})" if index is not None else ""
            _refuse(path, f"record {keys[one]} at byte {offsets[one]}{by} {reason}")
    start = np.ascontiguousarray(rows[:, 32:34])
    begins = (start == (0xFF, 0xD8)).all(1) | (start == (0x89, 0x50)).all(1)
    first = np.where(flags > 0, field(32, "<f4"), labels)
    second = np.where(flags > 1, field(36, "<f4"), 0).astype(np.float32)
    return flags, first, second, body == 0, begins | (flags > 0)


def content(descriptor: int, offset: int, size: int) -> bytes:
    """Return what follows the labels of the record at `offset`: an encoded picture.

    Raises:
        Damaged: no record begins there any more, or it is cut off.
    """
    whole = _whole(descriptor, offset, size)
    begin = _LABELS + 4 * struct.unpack_from("<I", whole)[0] if len(whole) >= _LABELS else len(whole) + 1
    if begin > len(whole):
        raise Damaged("it is too short for its labels")
    return whole[begin:]


def _whole(descriptor: int, offset: int, size: int) -> bytes:
    """Return a record, its parts joined by the magic that was left out between them."""
    parts: list[bytes] = []
    at = offset
    while True:
        head = os.pread(descriptor, _HEAD, at)
        magic, word = struct.unpack("<II", head) if len(head) == _HEAD else (0, 0)
        part, length = word >> 29, word & _LENGTH
        if magic != MAGIC or part > 3 or (part in (2, 3)) is not bool(parts):
            raise Damaged(f"no record is at byte {at}")
        if at + _HEAD + length > size:
            raise Damaged(f"the file ends at byte {size} in its middle")
        parts.append(os.pread(descriptor, length, at + _HEAD))
        if len(parts[-1]) < length:
            raise Damaged("the file has become shorter")
        if part in (0, 3):
            return struct.pack("<I", MAGIC).join(parts)
        at += _HEAD + (length + 3 & ~3)
