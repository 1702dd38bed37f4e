"""Random subsets with exact probabilities, from random words: the coins of cohorts and of private batches."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Words = Callable[[int], NDArray[np.uint64]]
"""Number of words -> that many fresh independent uniform 64-bit words."""

_LOG_WORD = 64 * math.log(2.0)
_DIGITS = 80
_EXTRA = 3  # words that decide a close call: 192 bits


def poisson(rate: float, count: int, words: Words) -> NDArray[np.int64]:
    """Return the ascending places of 0..count-1 whose own coin of probability `rate` fell.

    Guarantee: the coins are independent and each has exactly the probability `rate`, up to 2^-190. Between one member
    and the next, k clients stay at home with probability (1 - q)^k q, whatever came before, because coins have no
    memory. So gaps are geometric, and a gap is the k with (1 - q)^(k+1) <= U < (1 - q)^k for a uniform U. The first 64
    bits of U and float64 logarithms tell k unless U is within their rounding of a boundary, about once in ten million
    gaps; then 192 more bits of the same U and logarithms of 80 digits do. Nothing is rounded towards a neighbour.

    >>> words = np.random.default_rng(1).bytes
    >>> fresh = lambda count: np.frombuffer(words(8 * count), np.uint64)
    >>> poisson(1.0, 3, fresh).tolist(), poisson(1e-9, 3, fresh).tolist()
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

    >>> without_replacement(3, 3, lambda count: np.zeros(count, np.uint64)).tolist()
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
