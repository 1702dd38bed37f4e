"""The faces of a packed file, decoded on demand."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import decode, names
from fedveil.data.archive import Archive
from fedveil.data.faces import FaceSet, positions
from fedveil.data.stores import CachedStore, Problem, Unreadable

FIELDS = ("labels", "names", "images", "jpeg", "offsets", "files")


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


def faces_of(archive: Archive, size: int, records: Sequence[str] | None = None) -> FaceSet:
    """Return all faces of an opened archive; those without a JPEG's first or last marker are marked unreadable.

    A picture's record is `records[i]` if given, else NAME/FILE from `files` where that is one picture's, else
    NAME/position i. Its key is a digest of its own bytes.

    Raises:
        UserError: missing fields, or fields of the wrong kind, shape or range.
    """
    archive.require("labels", "names")
    if "images" not in archive.fields:
        archive.require("jpeg", "offsets")
    path = archive.path
    people = names.Names(archive.words("names"), path)
    meaning = f" ({len(people)} names)"
    labels = archive.whole_numbers("labels", (None,), 0, len(people) - 1, meaning)
    reader: _Reader = _Arrays(archive) if "images" in archive.fields else _Jpegs(archive)
    if reader.count != labels.size:
        raise checks.UserError(f"{path}: {labels.size} labels but {reader.count} images.")
    if not reader.count:
        raise checks.UserError(f"{path} holds no picture; expected at least one label and image.")
    called, notes = _records(archive, labels, people) if records is None else (records, ())
    broken = reader.broken()
    if len(broken) == reader.count:
        raise checks.UserError(f"{path} holds no picture that can be read: the first is {broken[0]}. Repack it.")
    unreadable = np.isin(np.arange(reader.count), list(broken))

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([one(i) for i in index.tolist()])

    def one(index: int) -> NDArray[np.uint8]:
        try:
            return reader.one(index, size)
        except decode.Undecodable as error:
            problem = Problem(called[index], f"picture {index} cannot be decoded ({error})")
            raise Unreadable(problem, "repack it", path) from error

    def key(index: int) -> str:
        return f"sha256:{hashlib.sha256(reader.own(index)).hexdigest()}:{index}:{size}"

    return FaceSet(
        store=CachedStore(reader.count, (size, size), make, key, lambda index: called[index]),
        index=np.arange(reader.count),
        labels=labels,
        names=people,
        size=(size, size),
        skipped=tuple(Problem(called[i], reason) for i, reason in broken.items()),
        notes=(*reader.notes(size), *notes),
        unreadable=unreadable if broken else None,
    )


def _records(
    archive: Archive, labels: NDArray[np.int64], people: Sequence[str]
) -> tuple[Sequence[str], tuple[str, ...]]:
    """Return the pictures' public ids and what is to be said of them; one unusable file name makes all positions."""
    numbered = positions(labels, people)
    if "files" not in archive.fields:
        return numbered, ()
    listed = archive.words("files", labels.size)
    named = [f"{people[label]}/{file}" for label, file in zip(labels.tolist(), listed, strict=True)]
    twice, odd = len(named) - len(set(named)), sum(not file.isprintable() or not file for file in listed)
    if twice or odd:
        return numbered, (f"{twice} file names are not one picture's and {odd} cannot be printed: positions name them",)
    return named, names.alike(named)


@dataclasses.dataclass(frozen=True)
class _Arrays:
    archive: Archive

    def __post_init__(self) -> None:
        images = self.archive.fields["images"]
        shape = images.shape
        if images.dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise checks.UserError(
                f"{self.archive.path}: images must be uint8 (N, H, W) or (N, H, W, 3), got {images.dtype} {shape}; "
                "convert them, since only you know what other numbers mean."
            )
        if reason := decode.odd_shape(shape[2], shape[1]):
            raise checks.UserError(f"{self.archive.path}: images of {reason}; expected (N, height, width, 3).")

    @property
    def _images(self) -> NDArray[np.uint8]:
        images: NDArray[np.uint8] = self.archive.fields["images"]
        return images

    @property
    def count(self) -> int:
        return len(self._images)

    def own(self, index: int) -> bytes:
        return bytes(self._images[index].tobytes())

    def broken(self) -> dict[int, str]:
        return {}

    def one(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode.fit_array(self._images[index], size)

    def notes(self, size: int) -> tuple[str, ...]:
        height, width = self._images.shape[1:3]
        grey = self.count if self._images.ndim == 3 else 0
        return decode.notes([(width, height)] * self.count, grey, size)


class _Jpegs:
    def __init__(self, archive: Archive) -> None:
        self._jpeg: NDArray[np.uint8] = archive.fields["jpeg"]
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

    def _bytes(self, index: int) -> NDArray[np.uint8]:
        return self._jpeg[self._ends[index] : self._ends[index + 1]]

    def own(self, index: int) -> bytes:
        return self._bytes(index).tobytes()

    def broken(self) -> dict[int, str]:
        found = ((i, decode.check_jpeg(self._bytes(i))) for i in range(self.count))
        return {i: reason for i, reason in found if reason}

    def one(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode.decode(self.own(index), size).pixels

    def notes(self, size: int) -> tuple[str, ...]:
        return ()
