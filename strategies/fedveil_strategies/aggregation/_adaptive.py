"""What the adaptive server rules share (Reddi et al., ICLR 2021, https://arxiv.org/abs/2003.00295, Algorithm 2)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil_strategies.aggregation.base import Mean, Tensors


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
            first = self.beta1 * state.get(f"m/{name}", np.float32(0.0)) + (1 - self.beta1) * value
            second = self.second(state.get(f"v/{name}", np.float32(self.tau**2)), value**2)
            after[f"m/{name}"], after[f"v/{name}"] = first.astype(np.float32), second.astype(np.float32)
            step = self.server_lr * first / (np.sqrt(second) + self.tau)
            moved[name] = (tensors[name] + step).astype(np.float32)
        return {**tensors, **moved}, after
