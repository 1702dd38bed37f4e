"""FedAvg with server momentum."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil_strategies.aggregation.base import Mean, Tensors, blockwise


@dataclasses.dataclass(frozen=True)
class FedAvgM:
    """FedAvgM: server momentum over mean updates (Hsu, Qi and Brown, arXiv 1909.06335).

    Attributes:
        server_lr: factor of the velocity.
        momentum: velocity <- momentum * velocity + mean; in [0, 1).
    """

    server_lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        checks.within(1e-9, 1e4, server_lr=self.server_lr)
        checks.non_negative(momentum=self.momentum)
        if self.momentum >= 1:
            raise checks.UserError(f"Expected momentum={self.momentum!r} < 1; at 1 the velocity never fades.")

    def step(self, tensors: Tensors, mean: Mean, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return tensors + server_lr * velocity and the velocity."""
        velocity = {
            name: blockwise(self._velocity, state.get(name, np.zeros_like(tensors[name])), value)
            for name, value in mean.items()
        }
        moved = {name: blockwise(self._moved, tensors[name], v) for name, v in velocity.items()}
        return {**tensors, **moved}, velocity

    def _velocity(self, before: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.momentum * before + mean

    def _moved(self, tensor: NDArray[np.float32], velocity: NDArray[np.float32]) -> NDArray[np.float32]:
        return tensor + self.server_lr * velocity


METHOD = FedAvgM
