"""What the adaptive server rules share (Reddi et al., ICLR 2021, https://arxiv.org/abs/2003.00295, Algorithm 2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil_strategies.aggregation.base import Mean, Tensors, blockwise


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """A step of the first moment over the root of the second; a rule says how the second one moves.

    Without bias correction, as published: the second moment starts at tau squared.
    """

    server_lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 0.001

    def __post_init__(self) -> None:
        checks.within(1e-9, 1e4, server_lr=self.server_lr)
        checks.within(1e-12, 1e6, tau=self.tau)
        checks.non_negative(beta1=self.beta1, beta2=self.beta2)
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if beta >= 1:
                raise checks.UserError(f"Expected {name}={beta!r} < 1; at 1 the moment never moves.")

    def second(
        self, before: NDArray[np.float32] | np.float32, square: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the second moment after a mean update whose squares are given."""
        raise NotImplementedError

    def step(self, tensors: Tensors, mean: Mean, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return tensors + server_lr * m / (sqrt(v) + tau) and the two moments."""
        after: Tensors = {}
        moved: Tensors = {}
        for name, value in mean.items():
            m, v = state.get(f"m/{name}"), state.get(f"v/{name}")
            before = [value] if m is None or v is None else [value, m, v]
            # Moments are found again for the step, which takes them before they are rounded: nothing so large is kept.
            after[f"m/{name}"] = blockwise(lambda *given: self._moments(*given)[0], *before)
            after[f"v/{name}"] = blockwise(lambda *given: self._moments(*given)[1], *before)
            moved[name] = blockwise(self._moved, tensors[name], *before)
        return {**tensors, **moved}, after

    def _moments(
        self, value: NDArray[np.float64], m: NDArray[np.float32] | None = None, v: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        first = self.beta1 * (np.float32(0.0) if m is None else m) + (1 - self.beta1) * value
        return first, self.second(np.float32(self.tau**2) if v is None else v, value**2)

    def _moved(self, tensor: NDArray[np.float32], *before: NDArray[Any]) -> NDArray[np.float64]:
        first, second = self._moments(*before)
        found: NDArray[np.float64] = tensor + self.server_lr * first / (np.sqrt(second) + self.tau)
        return found
