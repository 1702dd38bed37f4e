"""Privacy loss distributions on a grid: the pieces from dp-accounting, their composition by one Fourier product.

dp-accounting (Google) builds each piece: pessimistic by connect-the-dots (Doroshenko, Ghazi, Kamath, Kumar and
Manurangsi, PETS 2022), optimistic by rounding every loss down. Composition here is one inverse transform for any number
of pieces and counts: cheaper than convolving one by one, and free of intermediate truncation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from dp_accounting.pld import common, pld_pmf
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.privacy_accountant import NeighboringRelation
from numpy.typing import NDArray
from scipy import fft, signal, special

from fedveil.privacy.accounting import _pairs
from fedveil.privacy.accounting._pairs import Array, Pair

TAIL = 1e-15
"""Mass that a composition may cut off at either end of its window; a pessimistic one counts it as an infinite loss."""
_TILTS: Array = np.outer([-1.0, 1.0], np.geomspace(0.02, 3000.0, 18)).ravel()


@dataclasses.dataclass(frozen=True, eq=False)
class Losses:
    """Masses of the losses `grid * (lowest + i)`, and of an infinite loss.

    Attributes:
        grid: distance of two losses, nats.
        lowest: index of the first loss, may be negative.
        mass: (n,) at least 0.
        infinite: mass of the infinite loss.
        log_mgf: (36,) log E[e^(tilt * loss)] of the finite part at fixed tilts, for Chernoff bounds.
    """

    grid: float
    lowest: int
    mass: Array
    infinite: float
    log_mgf: Array


def span(pair: Pair) -> float:
    """Return about the length of the interval that a piece's losses fill, nats: what it will cost in memory."""
    if isinstance(pair, _pairs.Number | _pairs.Pure):
        return 2 * pair.epsilon
    mu = pair.mu if isinstance(pair, _pairs.Shift) else 1 / pair.sigma
    return mu * mu + 20 * mu


def pieces(pair: Pair, grid: float, pessimistic: bool) -> tuple[Losses, ...]:
    """Return the loss distributions of one event, one a direction (one in all if symmetric).

    Upper ones if pessimistic, else lower ones; `pair` must be an attained one for a lower one to mean anything.
    """
    built = _build(pair, grid, pessimistic)
    sides = (built._pmf_remove,) if built._symmetric else (built._pmf_remove, built._pmf_add)
    return tuple(_losses(pmf) for pmf in sides)


def _losses(pmf: pld_pmf.PLDPmf) -> Losses:
    dense = pmf.to_dense_pmf()
    grid = dense._discretization
    mass = np.maximum(np.asarray(dense._probs, dtype=np.float64), 0.0)
    filled = mass > 0
    log_mass = np.log(mass[filled])
    losses = grid * (dense._lower_loss + np.flatnonzero(filled))
    log_mgf = np.array([special.logsumexp(log_mass + tilt * losses) for tilt in _TILTS])
    return Losses(grid, int(dense._lower_loss), mass, float(dense._infinity_mass), log_mgf)


def _build(pair: Pair, grid: float, pessimistic: bool) -> pld.PrivacyLossDistribution:
    settings = {"value_discretization_interval": grid, "pessimistic_estimate": pessimistic}
    dots = {"use_connect_dots": pessimistic}
    match pair:
        case _pairs.Shift():
            return pld.from_gaussian_mechanism(1.0 / pair.mu, **settings, **dots)
        case _pairs.Poisson():
            return pld.from_gaussian_mechanism(pair.sigma, sampling_prob=pair.rate, **settings, **dots)
        case _pairs.PoissonReplaced():
            return pld.from_gaussian_mechanism(
                pair.sigma,
                sampling_prob=pair.rate,
                neighboring_relation=NeighboringRelation.REPLACE_ONE,
                **settings,
                **dots,
            )
        case _pairs.Number():
            return pld.from_laplace_mechanism(1.0 / pair.epsilon, sampling_prob=pair.rate, **settings, **dots)
        case _pairs.Pure():
            parameters = common.DifferentialPrivacyParameters(pair.epsilon, 0.0)
            return pld.from_privacy_parameters(parameters, value_discretization_interval=grid)
        case _pairs.FixedReplaced():
            return _fixed_size(pair, grid)


def _fixed_size(pair: _pairs.FixedReplaced, grid: float) -> pld.PrivacyLossDistribution:
    """Connect the dots of the single pair's profile; it is symmetric, so one distribution serves both directions."""
    mu = 1 / pair.sigma
    top = max(1, math.ceil((mu * mu / 2 + 10 * mu) / grid))
    deltas = np.minimum.accumulate(pair.profile(np.arange(-top, top + 1, dtype=np.float64) * grid))
    return pld.PrivacyLossDistribution(pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(grid, -top, top, deltas))


def compose(pieces: Sequence[tuple[Losses, int]], pessimistic: bool) -> Losses:
    """Return the loss distribution of all pieces, each as many times as its count, independent given the past."""
    grid = pieces[0][0].grid
    low = sum(one.lowest * count for one, count in pieces)
    high = low + sum((len(one.mass) - 1) * count for one, count in pieces)
    log_mgf = np.sum([count * one.log_mgf for one, count in pieces], axis=0)
    with np.errstate(over="ignore"):
        edges = (log_mgf - math.log(TAIL)) / _TILTS / grid
    usable = np.isfinite(edges)
    first = max(low, math.floor(np.max(edges[usable & (_TILTS < 0)], initial=low)))
    last = max(first, min(high, math.ceil(np.min(edges[usable & (_TILTS > 0)], initial=high))))
    length = fft.next_fast_len(max(last - first + 1, *(len(one.mass) for one, _ in pieces)), real=True)
    product = np.ones(length // 2 + 1, dtype=np.complex128)
    for one, count in pieces:
        product *= _power(fft.rfft(one.mass, length), count)
    # The transform wraps around modulo its length; the window holds everything but twice TAIL.
    mass = np.roll(fft.irfft(product, length), -((first - low) % length))[: last - first + 1]
    finite = math.fsum(count * math.log1p(-one.infinite) for one, count in pieces)
    infinite = -math.expm1(finite) + (2 * TAIL if pessimistic else 0.0)
    return Losses(grid, first, np.maximum(mass, 0.0), infinite, log_mgf)


def _power(base: NDArray[np.complex128], count: int) -> NDArray[np.complex128]:
    """Return base ** count by squaring; many times faster than the general complex power."""
    result: NDArray[np.complex128] | None = None
    while True:
        if count & 1:
            result = base.copy() if result is None else result * base
        count >>= 1
        if count == 0 and result is not None:
            return result
        base = base * base


def epsilon_of(losses: Losses, delta: float) -> float:
    """Return the smallest epsilon >= 0 with E[(1 - e^(epsilon - loss))_+] <= delta; inf if there is none."""
    if losses.infinite > delta:
        return math.inf
    start = max(0, 1 - losses.lowest)  # only losses above 0 count
    mass = losses.mass[start:]
    if len(mass) == 0:
        return 0.0
    # reversed sums: above[k] = mass from loss k up; weighted[k] = sum over j >= k of mass_j e^(loss_k - loss_j)
    above = losses.infinite + np.cumsum(mass[::-1])[::-1]
    weighted = signal.lfilter([1.0], [1.0, -math.exp(-losses.grid)], mass[::-1])[::-1]
    enough = np.flatnonzero(above - weighted <= delta)
    if not len(enough):  # only by rounding: beyond the last loss nothing but the infinite one is left
        return losses.grid * (losses.lowest + len(losses.mass) - 1)
    k = int(enough[0])
    if above[k] <= delta:
        return 0.0
    # Between loss k - 1 and loss k, delta(epsilon) = above_k - e^(epsilon - loss_k) weighted_k exactly.
    loss = losses.grid * (losses.lowest + start + k)
    return max(0.0, loss + math.log((float(above[k]) - delta) / float(weighted[k])))
