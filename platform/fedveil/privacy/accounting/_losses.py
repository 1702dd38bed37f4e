"""Privacy loss distributions on a grid: the pieces of `_pieces`, their composition by one Fourier product.

Composition is one inverse transform for any number of pieces and counts: cheaper than convolving one by one, and free
of intermediate truncation. dp-accounting and SciPy's parts are imported once a distribution is built: most runs build
none, and importing them takes longer than a short run trains.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

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
    from fedveil.privacy.accounting import _pieces

    return tuple(Losses(grid, *one, _log_mgf(grid, one[0], one[1])) for one in _pieces.built(pair, grid, pessimistic))


def _log_mgf(grid: float, lowest: int, mass: Array) -> Array:
    filled = np.flatnonzero(mass > 0)
    log_mass = np.log(mass[filled])
    losses = grid * (lowest + filled)
    return np.array([scipy.special.logsumexp(log_mass + tilt * losses) for tilt in _TILTS])


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
    length = scipy.fft.next_fast_len(max(last - first + 1, *(len(one.mass) for one, _ in pieces)), real=True)
    product = np.ones(length // 2 + 1, dtype=np.complex128)
    for one, count in pieces:
        product *= _power(scipy.fft.rfft(one.mass, length), count)
    # The transform wraps around modulo its length; the window holds everything but twice TAIL.
    mass = np.roll(scipy.fft.irfft(product, length), -((first - low) % length))[: last - first + 1]
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
    weighted = scipy.signal.lfilter([1.0], [1.0, -math.exp(-losses.grid)], mass[::-1])[::-1]
    enough = np.flatnonzero(above - weighted <= delta)
    if not len(enough):  # only by rounding: beyond the last loss nothing but the infinite one is left
        return losses.grid * (losses.lowest + len(losses.mass) - 1)
    k = int(enough[0])
    if above[k] <= delta:
        return 0.0
    # Between loss k - 1 and loss k, delta(epsilon) = above_k - e^(epsilon - loss_k) weighted_k exactly.
    loss = losses.grid * (losses.lowest + start + k)
    return max(0.0, loss + math.log((float(above[k]) - delta) / float(weighted[k])))
