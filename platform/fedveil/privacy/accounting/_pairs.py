"""Dominating pairs: what an adversary can tell apart in the worst case, one frozen value per mechanism and relation.

A pair holds two distributions P and Q on the line. `nodes` returns the privacy loss log(P/Q) and its mass under P, by
quadrature: moments and Renyi divergences follow from it. All lengths are in units in which neighbours differ by 1.

`reach` is the largest order for which E_P[e^((order - 1) loss)] is wanted from the nodes; the integrand's modes lie at
up to that many units.

Directions: 0 is P with the unit present (REMOVE), 1 the reverse (ADD). Each direction composes with the same direction
of other events, and the maximum is taken at the very end: no neighbouring data sets swap sides between two events.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Nodes(NamedTuple):
    """`log_mass` (n,): log of the mass under P; `loss` (n,): log(P/Q) there, in nats."""

    log_mass: Array
    loss: Array


@dataclasses.dataclass(frozen=True)
class Shift:
    """N(mu, 1) against N(0, 1): a Gaussian release without sampling; symmetric."""

    mu: float

    def nodes(self, direction: int, reach: float = 1.0) -> Nodes:
        """Return the loss of either direction: N(mu^2 / 2, mu^2)."""
        x, log_weight = _panels(-14.0, 14.0, 0.5)
        return Nodes(log_weight + _log_normal(x, 1.0), self.mu * x + self.mu**2 / 2)


@dataclasses.dataclass(frozen=True)
class Poisson:
    """(1 - q) N(0, s^2) + q N(1, s^2) against N(0, s^2): Poisson sampling, a unit replaced by nothing."""

    rate: float
    sigma: float

    def nodes(self, direction: int, reach: float = 1.0) -> Nodes:
        """Return the loss with the unit present (0) or absent (1) under P."""
        x, log_weight = _line(self.sigma, 0.0, reach)
        absent = _log_normal(x, self.sigma)
        loss = mixture_loss(x, self.rate, self.sigma)
        return Nodes(log_weight + absent, -loss) if direction else Nodes(log_weight + absent + loss, loss)


@dataclasses.dataclass(frozen=True)
class PoissonReplaced:
    """(1 - q) N(0, s^2) + q N(1, s^2) against (1 - q) N(0, s^2) + q N(-1, s^2): Poisson, replace-one; symmetric."""

    rate: float
    sigma: float

    def nodes(self, direction: int, reach: float = 1.0) -> Nodes:
        """Return the loss of either direction."""
        x, log_weight = _line(self.sigma, -1.0, 2 * reach - 1)
        present = mixture_loss(x, self.rate, self.sigma)
        other = mixture_loss(-x, self.rate, self.sigma)
        return Nodes(log_weight + _log_normal(x, self.sigma) + present, present - other)


@dataclasses.dataclass(frozen=True)
class FixedReplaced:
    """Fixed-size sampling without replacement at rate q = m / n, replace-one; sigma in units of the diameter 2C.

    The privacy profile is that of `Poisson` direction 0 at epsilon >= 0 and of direction 1 below 0; only a single pair
    with this profile may be composed (Zhu, Dong and Wang, "Optimal Accounting of Differential Privacy via
    Characteristic Function", AISTATS 2022). The maximum of the two composed directions is a lower bound only (Lebeda,
    Regehr, Kamath and Steinke, "Avoiding Pitfalls for Privacy Accounting of Subsampled Mechanisms under Composition",
    2024). Symmetric.
    """

    rate: float
    sigma: float

    def nodes(self, direction: int, reach: float = 1.0) -> Nodes:
        """Return the loss of the pair: positive losses as REMOVE, negative ones as ADD, the rest an atom at 0."""
        # The loss of the mixture changes its sign at 1/2, for any rate.
        x, log_weight = _panels(0.5, reach + 14 * self.sigma, _width(self.sigma))
        loss = mixture_loss(x, self.rate, self.sigma)
        absent = log_weight + _log_normal(x, self.sigma)
        atom = math.log((1 - self.rate) * math.erf(0.5 / self.sigma / math.sqrt(2))) if self.rate < 1 else -math.inf
        return Nodes(np.concatenate([absent + loss, absent, [atom]]), np.concatenate([loss, -loss, [0.0]]))

    def profile(self, epsilon: Array) -> Array:
        """Return delta at each epsilon, of either sign, in [0, 1], decreasing."""
        magnitude = np.abs(epsilon)
        # The point where the loss of the mixture is |epsilon|, as its distance from 1/2.
        point = self.sigma**2 * _log_excess(magnitude, self.rate)
        absent = scipy.special.ndtr(-(0.5 + point) / self.sigma)
        present = scipy.special.ndtr((0.5 - point) / self.sigma)
        mixed = (1 - self.rate) * absent + self.rate * present
        remove = mixed - np.exp(magnitude + scipy.special.log_ndtr(-(0.5 + point) / self.sigma))
        # For epsilon < 0 by symmetry: delta(epsilon) = 1 - e^epsilon + e^epsilon * delta(-epsilon).
        mirrored = -np.expm1(-magnitude) + np.exp(-magnitude) * remove
        delta: Array = np.clip(np.where(epsilon >= 0, remove, mirrored), 0.0, 1.0)
        return delta


@dataclasses.dataclass(frozen=True)
class Number:
    """(1 - q) Lap(0) + q Lap(1) against Lap(0), of scale 1 / epsilon: one number, Laplace noise; symmetric if q = 1."""

    epsilon: float
    rate: float = 1.0

    def nodes(self, direction: int, reach: float = 1.0) -> Nodes:
        """Return the loss with the unit present (0) or absent (1) under P: two atoms and a smooth part between."""
        panels = max(1.0 / 4096, min(0.5, 0.5 / self.epsilon))
        x, log_weight = _panels(0.0, 1.0, panels)
        absent = log_weight + math.log(self.epsilon / 2) - self.epsilon * x
        below, above = math.log(0.5), math.log(0.5) - self.epsilon
        absent = np.concatenate([absent, [below, above]])
        present = np.concatenate([self.epsilon * (2 * x - 1), [-self.epsilon, self.epsilon]])
        loss = _mix(present, self.rate)
        return Nodes(absent, -loss) if direction else Nodes(absent + loss, loss)


@dataclasses.dataclass(frozen=True)
class Pure:
    """Anything whose loss is at most epsilon: randomised response dominates it; symmetric."""

    epsilon: float

    def nodes(self, direction: int, reach: float = 1.0) -> Nodes:
        """Return the two atoms of either direction."""
        low = -np.logaddexp(0.0, self.epsilon)
        return Nodes(np.array([low + self.epsilon, low]), np.array([self.epsilon, -self.epsilon]))


Pair = Shift | Poisson | PoissonReplaced | FixedReplaced | Number | Pure


def attained(pair: Pair) -> Pair:
    """Return a pair that some neighbouring data sets really produce: the one for lower bounds.

    Fixed-size sampling: all other records at -C, the differing one at +C or -C, which is Poisson's pair with one
    direction for each. A clipped vector with Laplace noise: everything in one coordinate.
    """
    if isinstance(pair, FixedReplaced):
        return Poisson(pair.rate, pair.sigma)
    return Number(pair.epsilon) if isinstance(pair, Pure) else pair


def symmetric(pair: Pair) -> bool:
    """Return whether both directions are the same."""
    return not (isinstance(pair, Poisson) or (isinstance(pair, Number) and pair.rate < 1))


def mixture_loss(x: Array, rate: float, sigma: float) -> Array:
    """Return log((1 - q) + q e^((2x - 1) / (2 sigma^2))) without overflow."""
    return _mix((2 * x - 1) / (2 * sigma * sigma), rate)


def _mix(loss: Array, rate: float) -> Array:
    if rate == 1.0:
        return loss
    # Small losses by log1p(q (e^l - 1)), which keeps the digits that logaddexp would cancel.
    small = np.log1p(rate * np.expm1(np.minimum(loss, 1.0)))
    large: Array = np.logaddexp(math.log1p(-rate), math.log(rate) + loss)
    return np.where(loss < 1.0, small, large)


def _log_excess(epsilon: Array, rate: float) -> Array:
    """Return log((e^epsilon - 1 + q) / q) for epsilon >= 0 without overflow."""
    small = np.log1p(np.expm1(np.minimum(epsilon, 30.0)) / rate)
    return np.where(epsilon < 30.0, small, epsilon - math.log(rate) + np.log1p(-(1 - rate) * np.exp(-epsilon)))


def _log_normal(x: Array, sigma: float) -> Array:
    return -0.5 * (x / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))


def _panels(start: float, end: float, width: float) -> tuple[Array, Array]:
    """Return Gauss-Legendre nodes and log weights on panels of at most `width`, 16 nodes each."""
    count = max(1, math.ceil((end - start) / width))
    node, weight = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(start, end, count + 1)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    x = (edges[:-1, None] + half) + half * node
    return x.ravel(), np.log(half * weight).ravel()


def _line(sigma: float, low: float, high: float) -> tuple[Array, Array]:
    return _panels(low - 14 * sigma, high + 14 * sigma, _width(sigma))


def _width(sigma: float) -> float:
    """Return a panel's width: the density changes over sigma, the loss of a mixture bends over sigma^2."""
    return min(sigma / 2, max(sigma * sigma, sigma / 32))
