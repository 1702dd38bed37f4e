"""Renyi accountant: instant, never fails for a large epsilon, 7 to 26 % above the best bound.

Own orders and own quadrature: published libraries drop fractional orders that fail to converge, which costs 7 % at
sampling rates above 0.1. Mironov, "Renyi Differential Privacy", CSF 2017; sampling: Mironov, Talwar and Zhang, 2019.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np

from fedveil.privacy import gaussian
from fedveil.privacy.accounting import _moments, _pairs
from fedveil.privacy.accounting._pairs import Array, Pair
from fedveil.privacy.accounting.base import Accountant


@dataclasses.dataclass(frozen=True)
class RdpAccountant(Accountant):
    """Adds Renyi divergences; where every loss is bounded, the plain sum of the bounds if that is smaller."""

    kind: ClassVar[str] = "rdp"

    def divergences(self) -> Array:
        """Return the composed Renyi divergence at each of `_moments.ORDERS`, nats; inf where it was not computed."""
        return self._total(self._pairs())

    def _total(self, counted: dict[Pair, int]) -> Array:
        total: Array = np.zeros_like(_moments.ORDERS)
        for pair, count in counted.items():
            total = total + count * self._divergence(pair)
        return total

    def _upper(self, counted: dict[Pair, int], delta: float) -> tuple[float, str]:
        upper, pure = _moments.epsilon_from_renyi(self._total(counted), delta), _pure(counted)
        return (pure, "sum of pure losses") if pure <= upper else (upper, "Renyi divergences")

    def _lower(self, counted: dict[Pair, int], delta: float) -> float:
        """Return what mean and variance of the loss give: good for a large epsilon, else often 0."""
        best = 0.0
        for direction in (0, 1):
            found = [(self.loss(_pairs.attained(pair), direction), count) for pair, count in counted.items()]
            mean = math.fsum(count * one.mean for one, count in found)
            variance = math.fsum(count * one.variance for one, count in found)
            best = max(best, _moments.lower_from_moments(mean, variance, delta))
        # What the unsampled Gaussians cost alone is exact, and more events cannot lower it.
        alone = [gaussian.epsilon_of(pair.mu, delta) for pair in counted if isinstance(pair, _pairs.Shift)]
        return max([best, *alone])

    def _divergence(self, pair: Pair) -> Array:
        if isinstance(pair, _pairs.Shift):  # a closed form, and another pair after every round: nothing to remember
            return _moments.renyi(pair)
        if ("renyi", pair) not in self._cache:
            self._cache["renyi", pair] = _moments.renyi(pair)
        found: Array = self._cache["renyi", pair]
        return found

    def loss(self, pair: Pair, direction: int) -> _moments.Moments:
        """Return mean and variance of one event's loss, remembered."""
        if isinstance(pair, _pairs.Shift):
            return _moments.moments(pair, direction)
        if ("moments", pair, direction) not in self._cache:
            self._cache["moments", pair, direction] = _moments.moments(pair, direction)
        found: _moments.Moments = self._cache["moments", pair, direction]
        return found


def _pure(counted: dict[Pair, int]) -> float:
    """Return the sum of the largest losses; inf unless all are bounded."""
    if not all(isinstance(pair, _pairs.Number | _pairs.Pure) for pair in counted):
        return math.inf
    # Sampling only lowers a loss, so the unsampled bound holds.
    return math.fsum(count * pair.epsilon for pair, count in counted.items())  # type: ignore[union-attr]
