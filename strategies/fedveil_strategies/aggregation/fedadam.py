"""Adam at the server."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil_strategies.aggregation._adaptive import Adaptive


@dataclasses.dataclass(frozen=True)
class FedAdam(Adaptive):
    """FedAdam: Adam at the server on mean updates (Reddi et al., ICLR 2021, without bias correction).

    Attributes:
        server_lr: step size.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        tau: added to the root of the second moment; also its square is the second moment's start.
    """

    def second(
        self, before: NDArray[np.float32] | np.float32, square: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the exponential mean of the squares."""
        found: NDArray[np.float64] = self.beta2 * before + (1 - self.beta2) * square
        return found


METHOD = FedAdam
