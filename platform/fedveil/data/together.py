"""Several sets of faces as one: who trains a reference model is drawn from more than one set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data.faces import FaceSet
from fedveil.data.stores import Store


class _Stores:
    """Image i of the first set, then those of the second, and so on; each keeps its key, record and rank."""

    def __init__(self, parts: Sequence[FaceSet]) -> None:
        self._stores: list[Store] = [part.store for part in parts]
        self._part = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self._index = np.concatenate([part.index.astype(np.int64) for part in parts])
        self._size = parts[0].size

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images (B, 3, H, W)."""
        found = np.empty((index.size, 3, *self._size), np.uint8)
        for part in np.unique(self._part[index]):
            own = self._part[index] == part
            found[own] = self._stores[part].read(self._index[index[own]])
        return found

    def _of(self, index: int) -> tuple[Store, int]:
        return self._stores[self._part[index]], int(self._index[index])

    def key(self, index: int) -> str:
        """Return the key that the image has in its own set."""
        store, own = self._of(index)
        return store.key(own)

    def record(self, index: int) -> str:
        """Return the record that the image has in its own set."""
        store, own = self._of(index)
        return store.record(own)

    def rank(self, index: int) -> str:
        """Return the rank that the image has in its own set."""
        store, own = self._of(index)
        return store.rank(own)

    def encoded(self, index: int) -> bytes | None:
        """Return the picture file, if any."""
        store, own = self._of(index)
        return store.encoded(own)


def together(parts: Sequence[FaceSet]) -> FaceSet:
    """Return the images of several sets in that order, people numbered in order of their sets; no pixel is read.

    Args:
        parts: of one image size, without a person in common.

    Raises:
        UserError: no set, two sizes, or two people whose names look alike.

    >>> from fedveil.data.faces import from_array
    >>> one = from_array(np.zeros((2, 3, 8, 8), np.uint8), [1, 1], ("ann", "bob"))
    >>> two = from_array(np.ones((1, 3, 8, 8), np.uint8), [0], ("cleo",))
    >>> both = together([one, two])
    >>> both.present_names, both.labels.tolist(), int(both.images([2]).max()), both.records[2]
    (('bob', 'cleo'), [0, 0, 1], 1, 'cleo/position 0')
    """
    if len({part.size for part in parts}) != 1:
        raise checks.UserError(f"Expected sets of one image size, got {[part.size for part in parts]}.")
    names: list[str] = []
    labels = []
    for part in parts:
        present, own = np.unique(part.labels, return_inverse=True)
        labels.append(own + len(names))
        names += [part.names[i] for i in present]
    readable = np.concatenate([part.readable for part in parts])
    return FaceSet(
        store=_Stores(parts), index=np.arange(readable.size), labels=np.concatenate(labels).astype(np.int64),
        names=names, size=parts[0].size, synthetic=all(part.synthetic for part in parts),
        public=all(part.public for part in parts), unreadable=None if readable.all() else ~readable,
    )  # fmt: skip
