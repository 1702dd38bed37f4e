"""Yogi at the server."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil_strategies.aggregation._adaptive import Adaptive


@dataclasses.dataclass(frozen=True)
class FedYogi(Adaptive):
    """FedYogi: Yogi at the server on mean updates (Reddi et al., ICLR 2021, without bias correction).

    Where Adam's second moment moves towards the squares in proportion to the distance, Yogi's moves by a share of the
    square itself, up or down. After large updates it shrinks slowly, so step sizes do not jump.

    Attributes:
        server_lr: step size.
        beta1: decay of the first moment, in [0, 1).
        beta2: 1 minus the share of a square by which the second moment moves, in [0, 1).
        tau: added to the root of the second moment; also its square is the second moment's start.
    """

    def second(
        self, before: NDArray[np.float32] | np.float32, square: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return v - (1 - beta2) square sign(v - square); it stays at or above 0."""
        found: NDArray[np.float64] = before - (1 - self.beta2) * square * np.sign(before - square)
        return found


METHOD = FedYogi
