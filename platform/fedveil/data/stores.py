"""Where pixels come from, and the two strings that every picture has: its record and its key.

The **record** is the picture's public name: a stable id that depends on nothing but its place in the data set (whose it
is, which file or position). Replacing the picture leaves it as it is. Whatever is chosen for or against a picture is
chosen by it, so that no picture can change what becomes of another one.

The **key** is for caches: it changes, without decoding, whenever the picture may have changed (size, modification time,
digest of its own bytes). Nothing is ever chosen by it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import names

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


class Unreadable(checks.UserError):
    """A picture cannot be read; `problem` names it by its record, the message also says in which file or folder."""

    def __init__(self, problem: Problem, remedy: str, where: str = "") -> None:
        super().__init__(f"{where}: {problem}; {remedy}." if where else f"{problem}; {remedy}.")
        self.problem = problem


class Store(Protocol):
    """Where the pixels of image number i come from, and its names."""

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images (B, 3, H, W), RGB; the same index always gives the same pixels.

        Raises:
            Unreadable: one of them cannot be decoded.
        """

    def key(self, index: int) -> str:
        """Return what caches know image `index` by: it changes with the picture, and is found without decoding it."""

    def record(self, index: int) -> str:
        """Return the public id of image `index`: a function of its place in the data set alone, unique in it."""

    def rank(self, index: int) -> str:
        """Return what a random choice hashes for image `index`: the record, or another function of its place alone."""

    def encoded(self, index: int) -> bytes | None:
        """Return the picture file that image `index` is decoded from, None where there is none.

        Raises:
            OSError: it cannot be read.
        """


class ArrayStore:
    """Images that are already in memory; the key is a hash of the pixels unless keys are given."""

    def __init__(
        self, images: NDArray[np.uint8], keys: Sequence[str] | None = None, records: Sequence[str] | None = None
    ) -> None:
        self._images, self._keys, self._records = images, keys, records

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a copy of the images (B, 3, H, W)."""
        return self._images[index]

    def key(self, index: int) -> str:
        """Return the given key or a SHA-256 over the pixels."""
        if self._keys is not None:
            return self._keys[index]
        return "sha256:" + hashlib.sha256(np.ascontiguousarray(self._images[index]).tobytes()).hexdigest()

    def record(self, index: int) -> str:
        """Return the given record or the position."""
        return f"position {index}" if self._records is None else self._records[index]

    def rank(self, index: int) -> str:
        """Return the record."""
        return self.record(index)

    def encoded(self, index: int) -> None:
        """Return nothing: there are pixels alone."""


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
        record: Callable[[int], str],
        rank: Callable[[int], str] | None = None,
        encoded: Callable[[int], bytes | None] = lambda index: None,
    ) -> None:
        kept = count if 3 * count * size[0] * size[1] <= _MAX_CACHE_BYTES else 0
        self._cache: NDArray[np.uint8] = np.zeros((kept, 3, *size), np.uint8)
        self._ready = np.zeros(kept, bool)
        self._make, self._key, self._record, self._rank = make, key, record, rank or record
        self._encoded = encoded

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images (B, 3, H, W); each is made once."""
        if not index.size:
            return self._cache[:0].copy()
        if not self._ready.size:
            return self._make(index)
        ready = self._ready[index]
        if not ready.all():
            missing = np.unique(index[~ready])
            self._cache[missing] = self._make(missing)
            self._ready[missing] = True
        return self._cache[index]

    def key(self, index: int) -> str:
        """Return the key of image `index`, without making it."""
        return self._key(index)

    def record(self, index: int) -> str:
        """Return the public id of image `index`."""
        return self._record(index)

    def rank(self, index: int) -> str:
        """Return what a random choice hashes for image `index`."""
        return self._rank(index)

    def encoded(self, index: int) -> bytes | None:
        """Return the picture file that image `index` is decoded from, if any."""
        return self._encoded(index)
