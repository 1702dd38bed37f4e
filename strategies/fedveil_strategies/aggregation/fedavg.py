"""FedAvg with a server learning rate."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil_strategies.aggregation.base import Mean, Tensors, blockwise


@dataclasses.dataclass(frozen=True)
class FedAvg:
    """FedAvg: add the mean update, times a server learning rate (McMahan et al., AISTATS 2017).

    Attributes:
        server_lr: factor of the mean update; 1 is the published rule.
    """

    server_lr: float = 1.0

    def __post_init__(self) -> None:
        checks.within(1e-9, 1e4, server_lr=self.server_lr)

    def step(self, tensors: Tensors, mean: Mean, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return tensors + server_lr * mean."""
        moved = {name: blockwise(self._moved, tensors[name], value) for name, value in mean.items()}
        return {**tensors, **moved}, state

    def _moved(self, tensor: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return tensor + self.server_lr * mean


METHOD = FedAvg
