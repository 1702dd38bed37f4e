"""The contract of aggregation rules: a pure step from the mean update to new global tensors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.float32]]
Mean = dict[str, NDArray[np.float64]]


class Aggregation(Protocol):
    """A server optimiser, run after aggregation (and after noise, where there is noise: post-processing).

    `mean` holds local-minus-global averages, so the descent direction is `+mean`. `state` starts empty and is saved in
    every checkpoint; both results are new values.
    """

    def step(self, tensors: Tensors, mean: Mean, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the new global tensors and the new state; tensors that `mean` lacks keep their values."""
