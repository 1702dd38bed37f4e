"""A set of aligned faces: labels and names are in memory, pixels are fetched on demand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedveil import checks
from fedveil.data.names import Names, printable
from fedveil.data.numbered import Numbered
from fedveil.data.stores import ArrayStore, Problem, Store, Unreadable

_MANY = 2**22  # images
_AT_ONCE = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class FaceSet:
    """Aligned faces of one size; `subset` shares the pixels and keeps labels and names.

    A picture that is known to be unreadable stays in the set, because people are counted, dealt, capped and paired by
    what is listed: damage to one picture must not move another one. It is never among the images.

    Attributes:
        store: where pixels come from.
        index: (N,) number of each image in the store; like `labels` narrow (`whole_numbers`) in a set of very many.
        labels: (N,) identity of each image, an index into `names`.
        names: identity names, no two alike; those without an image here are allowed.
        size: height and width in pixels.
        synthetic: nobody is shown (drawn or generated faces).
        public: pictures of these faces may be shown and read by everybody.
        folds: (len(names),) fold of each identity where a protocol gives one, else None.
        skipped: files that were left out while reading.
        notes: what reading changed, in words (how many images were resized, were grey).
        unreadable: (N,) whether a picture is known to be unreadable; None where all seem readable.

    >>> faces = from_array(np.zeros((3, 3, 8, 8), np.uint8), [0, 0, 1], ("ann", "bob"))
    >>> len(faces), faces.size, faces.images([2, 0]).shape, faces.subset([2]).identities.tolist(), faces.records[2]
    (3, (8, 8), (2, 3, 8, 8), [1], 'bob/position 2')
    """

    store: Store
    index: NDArray[Any]
    labels: NDArray[Any]
    names: Sequence[str]
    size: tuple[int, int]
    synthetic: bool = False
    public: bool = False
    folds: NDArray[np.int64] | None = None
    skipped: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    unreadable: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.names, Names | Numbered):
            object.__setattr__(self, "names", Names(self.names))
        checks.same_shape(self.index.shape, labels=self.labels.shape)
        if self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < len(self.names):
            low, high = self.labels.min(), self.labels.max()
            raise checks.UserError(
                f"Expected labels in 0..{len(self.names) - 1} ({len(self.names)} names), got {low}..{high}."
            )
        if self.folds is not None:
            checks.same_shape((len(self.names),), folds=self.folds.shape)
        if self.unreadable is not None:
            checks.same_shape(self.index.shape, unreadable=self.unreadable.shape)

    def __len__(self) -> int:
        return int(self.index.size)

    @property
    def keys(self) -> tuple[str, ...]:
        """What caches know each image by: it changes with the picture, and is found without decoding any."""
        return tuple(self.store.key(int(i)) for i in self.index)

    @property
    def records(self) -> tuple[str, ...]:
        """Public id of each image: a function of its place in the data set alone, unique in it."""
        return tuple(self.store.record(int(i)) for i in self.index)

    @property
    def identities(self) -> NDArray[np.int64]:
        """Sorted labels that have at least one image here, readable or not."""
        if self.labels.size < len(self.names) // 32:  # one client of a million: do not visit everybody
            return np.unique(self.labels)
        return np.flatnonzero(counts(self.labels, len(self.names)))

    @property
    def present_names(self) -> tuple[str, ...]:
        """Names of the identities that have at least one image here, readable or not."""
        return tuple(self.names[i] for i in self.identities)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """(N,) whether a picture is not known to be unreadable."""
        return np.ones(len(self), bool) if self.unreadable is None else ~self.unreadable

    def images(self, index: ArrayLike | None = None) -> NDArray[np.uint8]:
        """Return images (B, 3, H, W), uint8 RGB; all of them without `index`.

        Raises:
            Unreadable: one of them cannot be read.
        """
        where = np.arange(len(self)) if index is None else np.atleast_1d(np.asarray(index, np.int64))
        if self.unreadable is not None and self.unreadable[where].any():
            first = int(self.index[where[self.unreadable[where]][0]])
            raise Unreadable(Problem(self.store.record(first), "cannot be read"), "`fedveil data inspect` says why")
        return self.store.read(self.index[where].astype(np.int64, copy=False))

    def subset(self, index: ArrayLike) -> FaceSet:
        """Return the faces at `index` (numbers or a boolean mask); labels and names stay as they are."""
        where = np.asarray(index)
        if where.size == 0:
            where = where.astype(np.int64)
        unreadable = None if self.unreadable is None else self.unreadable[where]
        chosen = self.index[where].astype(np.int64, copy=False)
        labels = self.labels[where].astype(np.int64, copy=False)
        return dataclasses.replace(self, index=chosen, labels=labels, unreadable=unreadable)

    def batches(self, size: int = 256) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], list[Problem]]]:
        """Yield places (B,), their images (B, 3, H, W), and which pictures of the batch turned out to be unreadable.

        Reads every picture once; those known to be unreadable are passed over.
        """
        places = np.flatnonzero(self.readable)
        for start in range(0, places.size, size):
            batch = places[start : start + size]
            try:
                yield batch, self.images(batch), []
            except Unreadable:
                yield self._one_by_one(batch)

    def _one_by_one(self, batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8], list[Problem]]:
        kept, images, problems = [], [np.empty((0, 3, *self.size), np.uint8)], []
        for place in batch.tolist():
            try:
                images.append(self.images([place]))
                kept.append(place)
            except Unreadable as error:
                problems.append(error.problem)
        return np.array(kept, np.int64), np.concatenate(images), problems

    def without_unreadable(self) -> FaceSet:
        """Return the faces whose picture can be read, after reading each once; the others are in `skipped`."""
        places, problems = [np.empty(0, np.int64)], list(self.skipped)
        for batch, _, found in self.batches():
            places.append(batch)
            problems += found
        if sum(map(len, places)) == len(self):
            return self
        kept = self.subset(np.concatenate(places))
        return dataclasses.replace(kept, skipped=tuple(problems), unreadable=None)


def whole_numbers(count: int) -> type[np.int32] | type[np.int64]:
    """Return the type of the numbers of `count` images: half as wide where so many are in memory.

    Subsets, and so whatever a client or an evaluation reads, always hold int64.
    """
    return np.int32 if _MANY <= count < 2**31 else np.int64


def counts(labels: NDArray[Any], people: int) -> NDArray[np.int64]:
    """Return (people,) how many images each identity has.

    >>> counts(np.array([0, 2, 2], np.int32), 4).tolist()
    [1, 0, 2, 0]
    """
    if labels.dtype == np.int64 or labels.size <= _AT_ONCE:
        return np.bincount(labels, minlength=people).astype(np.int64, copy=False)
    found = np.zeros(people, np.int64)
    for start in range(0, labels.size, _AT_ONCE):  # bincount would make a wide copy of all
        some = labels[start : start + _AT_ONCE]
        low = int(some.min())
        part = np.bincount(some - low)
        found[low : low + part.size] += part
    return found


def from_array(
    images: NDArray[np.uint8],
    labels: ArrayLike,
    names: Sequence[str],
    *,
    keys: Sequence[str] | None = None,
    records: Sequence[str] | None = None,
    synthetic: bool = False,
    public: bool = False,
    folds: NDArray[np.int64] | None = None,
    skipped: tuple[Problem, ...] = (),
    unreadable: NDArray[np.bool_] | None = None,
) -> FaceSet:
    """Return a face set over images (N, 3, H, W), uint8, held in memory; a record is NAME/position i unless given.

    Raises:
        UserError: images of another shape or type, labels out of range, names that look alike, a record given twice.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise checks.UserError(f"Expected images (N, 3, H, W) of uint8, got {images.shape} of {images.dtype}.")
    given = np.asarray(labels)
    if given.size and given.dtype.kind not in "iu":
        raise checks.UserError(f"Expected labels of whole numbers (N,), got {given.dtype} {given.shape}.")
    faces = FaceSet(
        store=ArrayStore(images, keys),
        index=np.arange(len(images)),
        labels=given.astype(np.int64),
        names=names,
        size=(int(images.shape[2]), int(images.shape[3])),
        synthetic=synthetic,
        public=public,
        folds=folds,
        skipped=skipped,
        unreadable=unreadable,
    )
    records = positions(faces.labels, faces.names) if records is None else records
    checks.same_shape((len(images),), records=(len(records),))
    if len(set(records)) < len(records):
        twice = next(record for record in records if list(records).count(record) > 1)
        raise checks.UserError(f"Expected a record to be one picture's, got {printable(twice)!r} twice.")
    return dataclasses.replace(faces, store=ArrayStore(images, keys, records))


def positions(labels: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Return a record for every image of a set whose pictures have no names of their own.

    >>> positions(np.array([0, 1, 1]), ("ann", "bob"))
    ['ann/position 0', 'bob/position 1', 'bob/position 2']
    """
    return [f"{names[label]}/position {place}" for place, label in enumerate(labels.tolist())]
