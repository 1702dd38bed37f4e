"""What training reads of an owner's images whatever the draw: computed once per image and kept in memory alone."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

Compute = Callable[[NDArray[np.int64]], torch.Tensor | None]
"""Image numbers (B,) -> (B, ...) in whose rows no image influences another one's, or None."""


class Shelf:
    """Rows of several data sets in one allowance of memory; those that were not asked for longest go first.

    Whether a row is here or computed again never changes a bit of it.

    Attributes:
        limit: bytes of all rows together.
        held: bytes now.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._rows: OrderedDict[tuple[int, int], torch.Tensor] = OrderedDict()
        self._sets = itertools.count()

    def of(self, compute: Compute) -> Compute:
        """Return `compute` for one data set, with its rows kept here; once it says None it is not asked again."""
        mine, nothing = next(self._sets), False

        def rows(index: NDArray[np.int64]) -> torch.Tensor | None:
            nonlocal nothing
            if nothing:
                return None
            asked = dict.fromkeys(int(image) for image in index)
            found = {image: self._rows[mine, image] for image in asked if (mine, image) in self._rows}
            missing = np.array([image for image in asked if image not in found], np.int64)
            if missing.size:
                fresh = compute(missing)
                nothing = fresh is None
                if fresh is None:
                    return None
                found |= dict(zip(missing.tolist(), fresh.unbind(), strict=True))
            for image, row in found.items():
                self._keep((mine, image), row)
            return torch.stack([found[int(image)] for image in index])

        return rows

    def _keep(self, key: tuple[int, int], row: torch.Tensor) -> None:
        if key not in self._rows:
            self._rows[key] = row.clone()  # its own memory, so that letting it go frees it
            self.held += row.nbytes
        self._rows.move_to_end(key)
        while self.held > self.limit:
            self.held -= self._rows.popitem(last=False)[1].nbytes


SHELF = Shelf(1 << 29)
"""Of this process: a simulated owner's worker serves many owners, which share it."""
