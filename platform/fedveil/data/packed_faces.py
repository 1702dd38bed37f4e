"""The faces of a packed file, decoded on demand."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import decode, in_place, names
from fedveil.data.archive import Archive
from fedveil.data.faces import FaceSet
from fedveil.data.stores import CachedStore, Problem, Unreadable

_AT_ONCE = 4096  # values
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
    called, notes = _records(archive, labels, people) if records is None else (records, ())
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


class _Called(Sequence[str]):
    """The pictures' public ids, made when asked for: of a million, none is kept."""

    def __init__(self, labels: NDArray[np.int64], people: Sequence[str], own: Sequence[str] | None) -> None:
        self._labels, self._people, self._own = labels, people, own

    def __len__(self) -> int:
        return int(self._labels.size)

    def __getitem__(self, index: Any) -> Any:
        own = f"position {index}" if self._own is None else self._own[index]
        return f"{self._people[self._labels[index]]}/{own}"

    def __iter__(self) -> Iterator[str]:
        own = (f"position {index}" for index in range(len(self))) if self._own is None else self._own
        return (f"{self._people[label]}/{name}" for label, name in zip(_items(self._labels), own, strict=True))


class _Words(Sequence[str]):
    """A checked field of words, which NumPy keeps in less memory than Python's text."""

    def __init__(self, field: NDArray[Any]) -> None:
        self._field = field

    def __len__(self) -> int:
        return len(self._field)

    def __getitem__(self, index: Any) -> Any:
        return _text(self._field[index])

    def __iter__(self) -> Iterator[str]:
        return map(_text, _items(self._field))


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def _items(array: NDArray[Any]) -> Iterator[Any]:
    """Iterate over an array as Python's own values, of which few are in memory."""
    return itertools.chain.from_iterable(array[at : at + _AT_ONCE].tolist() for at in range(0, len(array), _AT_ONCE))


def _odd(archive: Archive, count: int) -> int:
    """Return how many of `files` are empty or cannot be printed; plain ASCII is seen without a look at each."""
    field = archive.fields["files"]
    if field.dtype.kind == "S" and field.ndim == 1 and field.size == count and field.itemsize:
        signs = np.ascontiguousarray(field).view(np.uint8).reshape(count, -1)
        plain = ((signs >= 0x20) & (signs < 0x7F)) | (signs == 0)
        if plain.all() and signs[:, 0].all() and not ((signs[:, :-1] == 0) & (signs[:, 1:] != 0)).any():
            return 0
    return sum(not file.isprintable() or not file for file in archive.words("files", count))


def _records(
    archive: Archive, labels: NDArray[np.int64], people: Sequence[str]
) -> tuple[Sequence[str], tuple[str, ...]]:
    """Return the pictures' public ids and what is to be said of them; one unusable file name makes all positions."""
    if "files" not in archive:
        return _Called(labels, people, None), ()
    odd = _odd(archive, labels.size)
    named = _Called(labels, people, _Words(archive.fields["files"]))
    may = [named[place] for place in names.candidates(map(names.key, named), len(named))]
    twice = len(may) - len(set(may))
    if twice or odd:
        note = f"{twice} file names are not one picture's and {odd} cannot be printed: positions name them"
        return _Called(labels, people, None), (note,)
    return named, names.alike(may)


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
        wrong = dict.fromkeys(np.setdiff1d(np.arange(self.count), long[begins]).tolist(), "not a JPEG")
        return dict(sorted((wrong | dict.fromkeys(long[begins & ~ends].tolist(), "truncated JPEG")).items()))

    def one(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode.decode(self.own(index), size).pixels

    def notes(self, size: int) -> tuple[str, ...]:
        return ()
