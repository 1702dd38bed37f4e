"""Who joins a round: a function of public constants and of random words, in time that the cohort takes.

Nothing here grows with the registry: clients who stay at home are skipped, not asked.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.configuration.schema import Cohort

Words = Callable[[int], NDArray[np.uint64]]
"""Number of words -> that many fresh independent uniform 64-bit words."""

_LOG_WORD = 64 * math.log(2.0)
_DIGITS = 80
_EXTRA = 3  # words that decide a close call: 192 bits


class Members(Sequence[str]):
    """The clients of a round in the registry's order, none written out.

    Attributes:
        registry: all client ids.
        places: (n,) ascending places of the members in it.
    """

    def __init__(self, registry: Sequence[str], places: NDArray[np.int64]) -> None:
        self.registry, self.places = registry, places

    def __len__(self) -> int:
        return int(self.places.size)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Members: ...
    def __getitem__(self, index: int | slice) -> str | Members:
        if isinstance(index, slice):
            return Members(self.registry, self.places[index])
        return self.registry[int(self.places[index])]


def expected_size(cohort: Cohort, registry: int) -> float:
    """Return the public divisor of the sum of updates: q * N for Poisson cohorts, the size for fixed ones.

    >>> expected_size(Cohort("poisson", rate=0.1), 1000)
    100.0
    """
    return cohort.rate * registry if cohort.kind == "poisson" else float(cohort.size or 0)


def public_words(seed: int, round_number: int) -> Words:
    """Return words from the public seed: right only where no guarantee leans on the cohort's secrecy."""
    generator = randomness.public_rng(seed, "cohort", round_number)
    return lambda count: generator.integers(0, 2**64, count, dtype=np.uint64)


def draw(cohort: Cohort, registry: Sequence[str], words: Words) -> Members:
    """Return the clients of a round, in registry order; a Poisson cohort may be empty.

    Args:
        cohort: its law: poisson (every client by its own coin of probability `rate`; at rate 1 everybody, and no word
            is drawn) or fixed (`size` of them, uniform without replacement).
        registry: all client ids; only its length is asked.
        words: fresh ones for every round.
    """
    if cohort.kind == "poisson":
        return Members(registry, poisson(cohort.rate, len(registry), words))
    return Members(registry, without_replacement(cohort.size or 0, len(registry), words))


def poisson(rate: float, count: int, words: Words) -> NDArray[np.int64]:
    """Return the ascending places of 0..count-1 whose own coin of probability `rate` fell.

    Guarantee: the coins are independent and each has exactly the probability `rate`, up to 2^-190. Between one member
    and the next, k clients stay at home with probability (1 - q)^k q, whatever came before, because coins have no
    memory. So gaps are geometric, and a gap is the k with (1 - q)^(k+1) <= U < (1 - q)^k for a uniform U. The first 64
    bits of U and float64 logarithms tell k unless U is within their rounding of a boundary, about once in ten million
    gaps; then 192 more bits of the same U and logarithms of 80 digits do. Nothing is rounded towards a neighbour.

    >>> poisson(1.0, 3, public_words(1, 1)).tolist(), poisson(1e-9, 3, public_words(1, 1)).tolist()
    ([0, 1, 2], [])
    """
    if rate >= 1.0:
        return np.arange(count, dtype=np.int64)
    found: list[NDArray[np.int64]] = []
    place = -1  # of the last member
    while place < count:
        left = (count - 1 - place) * rate
        gaps = _gaps(rate, words(int(left + 4 * left**0.5) + 8), words, count)
        places = place + np.cumsum(gaps + 1)
        found.append(places[places < count])
        place = int(places[-1])
    return np.concatenate(found)


def _gaps(rate: float, first: NDArray[np.uint64], words: Words, count: int) -> NDArray[np.int64]:
    """Return a geometric number of failures for each first word of a uniform; those above `count` are cut to it."""
    middle, scale = first.astype(np.float64) + 0.5, -np.log1p(-rate)
    with np.errstate(all="ignore"):  # of rates so small that everything overflows to "nobody"
        exact = (_LOG_WORD - np.log(middle)) / scale
        # Rounding of the logarithms and of the quotient, and the bits of U that the word lacks: at most one unit of it.
        doubt = (_LOG_WORD / scale + exact) * 2.0**-50 + 1.0 / (np.maximum(middle - 1.5, 0.25) * scale)
        close = np.flatnonzero((np.abs(exact - np.rint(exact)) <= doubt) & (exact - doubt <= count + 1))
    gaps: NDArray[np.int64] = np.clip(np.floor(exact), 0, count).astype(np.int64)
    for place in close.tolist():
        gaps[place] = min(_close_call(rate, int(first[place]), words), count)
    return gaps


def _close_call(rate: float, first: int, words: Words) -> int:
    """Return the gap of the uniform that begins with the word `first`, from 192 further bits and 80 digits."""
    bits = first
    for word in words(_EXTRA).tolist():
        bits = (bits << 64) | int(word)
    shift = 64 * (_EXTRA + 1)
    with decimal.localcontext(prec=_DIGITS - math.floor(math.log10(rate))):  # 1 - q keeps that many digits of q
        uniform = (decimal.Decimal(2 * bits + 1)) / decimal.Decimal(2 ** (shift + 1))
        return int(uniform.ln() / (1 - decimal.Decimal(rate)).ln())


def without_replacement(size: int, count: int, words: Words) -> NDArray[np.int64]:
    """Return `size` ascending places of 0..count-1; every set of that size is equally likely.

    Guarantee: exact. A word below the largest multiple of `count` is uniform modulo `count`; others are thrown away.
    The first `size` different values of such a sequence are a uniform set, because exchanging two places changes no
    probability. Where more than half are wanted, those that stay at home are drawn.

    >>> without_replacement(3, 3, public_words(1, 1)).tolist()
    [0, 1, 2]
    """
    if 2 * size > count:
        stay = np.ones(count, bool)
        stay[without_replacement(count - size, count, words)] = False
        return np.flatnonzero(stay)
    limit = np.uint64(2**64 // count * count - 1)  # the last word that counts
    found = np.empty(0, np.int64)
    while found.size < size:
        drawn = words(size - found.size + 8)
        values = np.concatenate([found, (drawn[drawn <= limit] % np.uint64(count)).astype(np.int64)])
        _, firsts = np.unique(values, return_index=True)
        found = values[np.sort(firsts)]
    return np.sort(found[:size])
