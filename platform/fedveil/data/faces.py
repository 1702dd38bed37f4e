"""A set of aligned faces: labels and names are in memory, pixels are fetched on demand."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedveil import checks
from fedveil.data import names
from fedveil.data.names import Names
from fedveil.randomness import derive_seed

_MAX_CACHE_BYTES = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class Problem:
    """One file, picture or person that was left out, and why; both are safe to print."""

    file: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", names.printable(self.file))
        object.__setattr__(self, "reason", names.printable(self.reason))

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


class Store(Protocol):
    """Where the pixels of image number i come from, and a cheap stable name of that image."""

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images (B, 3, H, W), RGB; the same index always gives the same pixels."""

    def key(self, index: int) -> str:
        """Return a stable identity of image `index`, found without decoding it."""


class ArrayStore:
    """Images that are already in memory; the key is a hash of the pixels unless keys are given."""

    def __init__(self, images: NDArray[np.uint8], keys: Sequence[str] | None = None) -> None:
        self._images, self._keys = images, keys

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a copy of the images (B, 3, H, W)."""
        return self._images[index]

    def key(self, index: int) -> str:
        """Return the given key or a SHA-256 over the pixels."""
        if self._keys is not None:
            return self._keys[index]
        return "sha256:" + hashlib.sha256(np.ascontiguousarray(self._images[index]).tobytes()).hexdigest()


class CachedStore:
    """Images that `make` decodes or draws when first asked for, then kept as uint8 (memory is touched only then).

    A set of more than 4 GiB is not kept: its images are made anew each time.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        make: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
        key: Callable[[int], str],
    ) -> None:
        kept = count if 3 * count * size[0] * size[1] <= _MAX_CACHE_BYTES else 0
        self._cache: NDArray[np.uint8] = np.zeros((kept, 3, *size), np.uint8)
        self._ready = np.zeros(kept, bool)
        self._make, self._key = make, key

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images (B, 3, H, W); each is made once."""
        if not self._ready.size:
            return self._make(index)
        missing = np.unique(index[~self._ready[index]])
        if missing.size:
            self._cache[missing] = self._make(missing)
            self._ready[missing] = True
        return self._cache[index]

    def key(self, index: int) -> str:
        """Return the key of image `index`, without making it."""
        return self._key(index)


@dataclasses.dataclass(frozen=True, eq=False)
class FaceSet:
    """Aligned faces of one size; `subset` shares the pixels and keeps labels and names.

    Attributes:
        store: where pixels come from.
        index: (N,) number of each image in the store.
        labels: (N,) identity of each image, an index into `names`.
        names: identity names, no two alike; those without an image here are allowed.
        size: height and width in pixels.
        synthetic: nobody is shown (drawn or generated faces).
        public: pictures of these faces may be shown and read by everybody.
        folds: (len(names),) fold of each identity where a protocol gives one, else None.
        skipped: files that were left out while reading.
        notes: what reading changed, in words (how many images were resized, were grey).

    >>> faces = from_array(np.zeros((3, 3, 8, 8), np.uint8), [0, 0, 1], ("ann", "bob"))
    >>> len(faces), faces.size, faces.images([2, 0]).shape, faces.subset([2]).identities.tolist()
    (3, (8, 8), (2, 3, 8, 8), [1])
    """

    store: Store
    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    size: tuple[int, int]
    synthetic: bool = False
    public: bool = False
    folds: NDArray[np.int64] | None = None
    skipped: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.names, Names):
            object.__setattr__(self, "names", Names(self.names))
        checks.same_shape(self.index.shape, labels=self.labels.shape)
        if self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < len(self.names):
            low, high = self.labels.min(), self.labels.max()
            raise checks.UserError(
                f"Expected labels in 0..{len(self.names) - 1} ({len(self.names)} names), got {low}..{high}."
            )
        if self.folds is not None:
            checks.same_shape((len(self.names),), folds=self.folds.shape)

    def __len__(self) -> int:
        return int(self.index.size)

    @property
    def keys(self) -> tuple[str, ...]:
        """Stable cheap identity of each image, without decoding any."""
        return tuple(self.store.key(int(i)) for i in self.index)

    @property
    def identities(self) -> NDArray[np.int64]:
        """Sorted labels that have at least one image here."""
        return np.unique(self.labels)

    @property
    def present_names(self) -> tuple[str, ...]:
        """Names of the identities that have at least one image here."""
        return tuple(self.names[i] for i in self.identities)

    def images(self, index: ArrayLike | None = None) -> NDArray[np.uint8]:
        """Return images (B, 3, H, W), uint8 RGB; all of them without `index`."""
        chosen = self.index if index is None else self.index[np.asarray(index, np.int64)]
        return self.store.read(np.atleast_1d(chosen))

    def subset(self, index: ArrayLike) -> FaceSet:
        """Return the faces at `index` (numbers or a boolean mask); labels and names stay as they are."""
        where = np.asarray(index)
        if where.size == 0:
            where = where.astype(np.int64)
        return dataclasses.replace(self, index=self.index[where], labels=self.labels[where])


def from_array(
    images: NDArray[np.uint8],
    labels: ArrayLike,
    names: Sequence[str],
    *,
    keys: Sequence[str] | None = None,
    synthetic: bool = False,
    public: bool = False,
    folds: NDArray[np.int64] | None = None,
    skipped: tuple[Problem, ...] = (),
) -> FaceSet:
    """Return a face set over images (N, 3, H, W), uint8, held in memory."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise checks.UserError(f"Expected images (N, 3, H, W) of uint8, got {images.shape} of {images.dtype}.")
    return FaceSet(
        store=ArrayStore(images, keys),
        index=np.arange(len(images)),
        labels=np.asarray(labels, np.int64),
        names=tuple(names),
        size=(int(images.shape[2]), int(images.shape[3])),
        synthetic=synthetic,
        public=public,
        folds=folds,
        skipped=skipped,
    )


def images_per_identity(faces: FaceSet) -> NDArray[np.int64]:
    """Return (len(names),) the number of images of each identity; zeros included."""
    return np.bincount(faces.labels, minlength=len(faces.names)).astype(np.int64)


def cap_images(faces: FaceSet, limit: int | None, seed: int) -> FaceSet:
    """Return at most `limit` images of each identity, in their old order; None means no cap.

    Who stays depends on the seed and the images' keys only, not on the order in which a folder was listed.
    """
    if limit is None:
        return faces
    checks.positive(max_images_per_identity=limit)
    counts = images_per_identity(faces)
    keep = np.ones(len(faces), bool)
    for label in np.flatnonzero(counts > limit):
        own = np.flatnonzero(faces.labels == label)
        ranks = [derive_seed(seed, "cap", key) for key in faces.subset(own).keys]
        keep[own[np.argsort(ranks)[limit:]]] = False
    return faces.subset(keep)
