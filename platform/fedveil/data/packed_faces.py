"""The faces of a packed file, decoded on demand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import decode, in_place, names, packed_records
from fedveil.data.archive import Archive
from fedveil.data.faces import FaceSet
from fedveil.data.stores import CachedStore, Problem, Unreadable

FIELDS = ("labels", "names", "images", "jpeg", "offsets", "files", "provenance")


class _Reader(Protocol):
    @property
    def count(self) -> int:
        """Return the number of pictures."""

    def own(self, index: int) -> bytes:
        """Return what is stored for one picture."""

    def broken(self) -> dict[int, str]:
        """Return which pictures cannot be read, as far as can be told without decoding, and why."""

    def one(self, index: int, size: int) -> NDArray[np.uint8]:
        """Return a picture (3, size, size); raise `Undecodable`."""

    def notes(self, size: int) -> tuple[str, ...]:
        """Return what reading changes."""

    def encoded(self, index: int) -> bytes | None:
        """Return the picture file that is stored, if it is one."""


def faces_of(archive: Archive, size: int, records: Sequence[str] | None = None) -> FaceSet:
    """Return all faces of an opened archive; those without a JPEG's first or last marker are marked unreadable.

    A picture's record is `records[i]` if given, else NAME/FILE from `files` where that is one picture's, else
    NAME/position i. Its key is a digest of its own bytes.

    Raises:
        UserError: missing fields, or fields of the wrong kind, shape or range.
    """
    archive.require("labels", "names")
    if "images" not in archive:
        archive.require("jpeg", "offsets")
    path = archive.path
    people = names.Names(archive.words("names"), path)
    meaning = f" ({len(people)} names)"
    labels = archive.whole_numbers("labels", (None,), 0, len(people) - 1, meaning)
    reader: _Reader = _Arrays(archive) if "images" in archive else _Jpegs(archive)
    if reader.count != labels.size:
        raise checks.UserError(f"{path}: {labels.size} labels but {reader.count} images.")
    if not reader.count:
        raise checks.UserError(f"{path} holds no picture; expected at least one label and image.")
    called, notes = packed_records.records_of(archive, labels, people) if records is None else (records, ())
    try:
        broken = reader.broken()
    except decode.Undecodable as error:
        raise checks.UserError(f"{path} cannot be read: {error}; copy it again.") from error
    if len(broken) == reader.count:
        raise checks.UserError(f"{path} holds no picture that can be read: the first is {broken[0]}. Repack it.")
    unreadable = np.isin(np.arange(reader.count), list(broken))

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([one(i) for i in index.tolist()])

    def one(index: int) -> NDArray[np.uint8]:
        try:
            return reader.one(index, size)
        except decode.Undecodable as error:
            raise failed(index, error) from error

    def failed(index: int, error: Exception) -> Unreadable:
        return Unreadable(Problem(called[index], f"picture {index} cannot be decoded ({error})"), "repack it", path)

    def key(index: int) -> str:
        try:
            return f"sha256:{hashlib.sha256(reader.own(index)).hexdigest()}:{index}:{size}"
        except decode.Undecodable as error:
            raise failed(index, error) from error

    return FaceSet(
        store=CachedStore(reader.count, (size, size), make, key, called.__getitem__, encoded=reader.encoded),
        index=np.arange(reader.count),
        labels=labels,
        names=people,
        size=(size, size),
        skipped=tuple(Problem(called[i], reason) for i, reason in broken.items()),
        notes=(*reader.notes(size), *notes, *_provenance(archive)),
        unreadable=unreadable if broken else None,
    )


def _provenance(archive: Archive) -> tuple[str, ...]:
    """Return what `fedveil data pack` wrote of where the pictures come from, for a note."""
    if "provenance" not in archive:
        return ()
    try:
        found = json.loads(archive.words("provenance", 1)[0])
        said = [f"{key} {found[key]}" for key in ("made_by", "source", "place", "size", "quality") if key in found]
    except (ValueError, TypeError, RecursionError):
        said = ["something unreadable"]
    return (names.printable(f"packed: {', '.join(said)}"),)


@dataclasses.dataclass(frozen=True)
class _Arrays:
    archive: Archive

    def __post_init__(self) -> None:
        images = self.archive.bytes_of("images")
        shape = images.shape
        if images.dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise checks.UserError(
                f"{self.archive.path}: images must be uint8 (N, H, W) or (N, H, W, 3), got {images.dtype} {shape}; "
                "convert them, since only you know what other numbers mean."
            )
        if reason := decode.odd_shape(shape[2], shape[1]):
            raise checks.UserError(f"{self.archive.path}: images of {reason}; expected (N, height, width, 3).")

    @property
    def _images(self) -> in_place.Bytes:
        return self.archive.bytes_of("images")

    @property
    def count(self) -> int:
        return len(self._images)

    def own(self, index: int) -> bytes:
        return in_place.rows(self._images, index, index + 1).tobytes()

    def encoded(self, index: int) -> None:
        return None

    def broken(self) -> dict[int, str]:
        return {}

    def one(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode.fit_array(in_place.rows(self._images, index, index + 1)[0], size)

    def notes(self, size: int) -> tuple[str, ...]:
        height, width = self._images.shape[1:3]
        grey = self.count if self._images.ndim == 3 else 0
        return decode.notes([(width, height)] * self.count, grey, size)


class _Jpegs:
    def __init__(self, archive: Archive) -> None:
        self._jpeg: in_place.Bytes = archive.bytes_of("jpeg")
        if self._jpeg.dtype != np.uint8 or self._jpeg.ndim != 1:
            raise checks.UserError(
                f"{archive.path}: jpeg must be uint8 (B,), got {self._jpeg.dtype} {self._jpeg.shape}."
            )
        size = self._jpeg.size
        self._ends = archive.whole_numbers("offsets", (None,), 0, size, " (the bytes of jpeg)")
        if self._ends.size < 1 or (np.diff(self._ends) < 0).any():
            raise checks.UserError(
                f"{archive.path}: offsets must ascend within the {size} bytes of jpeg; the file is damaged."
            )
        self.count = self._ends.size - 1

    def own(self, index: int) -> bytes:
        return in_place.rows(self._jpeg, int(self._ends[index]), int(self._ends[index + 1])).tobytes()

    def encoded(self, index: int) -> bytes:
        return self.own(index)

    def broken(self) -> dict[int, str]:
        """Return which have not a JPEG's first and last marker; two bytes of each end are read."""
        starts, lengths = self._ends[:-1], np.diff(self._ends)
        long = np.flatnonzero(lengths >= 4)
        begins = (in_place.at(self._jpeg, starts[long], 2) == (0xFF, 0xD8)).all(1)
        ends = (in_place.at(self._jpeg, starts[long] + lengths[long] - 2, 2) == (0xFF, 0xD9)).all(1)
        none = np.ones(self.count, bool)
        none[long[begins]] = False
        wrong = dict.fromkeys(np.flatnonzero(none).tolist(), "not a JPEG")
        return dict(sorted((wrong | dict.fromkeys(long[begins & ~ends].tolist(), "truncated JPEG")).items()))

    def one(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode.decode(self.own(index), size).pixels

    def notes(self, size: int) -> tuple[str, ...]:
        return ()
