"""What training reads of an owner's images whatever the draw: computed once per image and kept in memory alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Compute = Callable[[NDArray[np.int64]], torch.Tensor | None]
"""Image numbers (B,) -> (B, ...) in whose rows no image influences another one's, or None."""


class Shelf:
    """Rows of many data sets under one mechanism in one allowance of memory; when it is full, what is there stays.

    Images are visited in one permutation after another, and then a row that makes room is asked for sooner than the one
    it makes room for. Whether a row is here or computed again never changes a bit of it. Another mechanism (settings,
    learnt state, size) empties the shelf.

    Attributes:
        limit: bytes of all rows together.
        held: bytes now.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._mechanism = b""
        self._rows: dict[str, torch.Tensor] = {}

    def of(self, mechanism: bytes, keys: Sequence[str], compute: Compute) -> Compute:
        """Return `compute` with its rows kept here; if it returns None once, it is not asked again.

        Args:
            mechanism: hash of everything a row depends on but the image.
            keys: stable names of the images; a name stands for the same pixels in every data set.
            compute: gives rows of the images 0..len(keys)-1.
        """
        if mechanism != self._mechanism:
            self._mechanism, self.held = mechanism, 0
            self._rows.clear()
        nothing = False

        def rows(index: NDArray[np.int64]) -> torch.Tensor | None:
            nonlocal nothing
            if nothing or index.size == 0:
                return None if nothing else compute(index)
            asked = dict.fromkeys(int(image) for image in index)
            here = self._rows if mechanism == self._mechanism else {}
            found = {image: here[keys[image]] for image in asked if keys[image] in here}
            missing = np.array([image for image in asked if image not in found], np.int64)
            if missing.size:
                fresh = compute(missing)
                nothing = fresh is None
                if fresh is None:
                    return None
                for image, row in zip(missing.tolist(), fresh.unbind(), strict=True):
                    found[image] = row
                    if mechanism == self._mechanism and self.held + row.nbytes <= self.limit:
                        self._rows[keys[image]] = row.clone()  # of its own memory, not a part of the batch's
                        self.held += row.nbytes
            return torch.stack([found[int(image)] for image in index])

        return rows


SHELF = Shelf(1 << 29)
"""Of this process: the worker of a simulation serves many owners, which share it."""
