"""Exact draws of round(steps * Z) for a standard Gaussian or Laplace Z, many at a time.

The three steps of `settling`, over arrays of 64-bit words. A decision is made here only where integers prove it, or a
polynomial whose error is bounded from the rounding of single additions and multiplications (IEEE 754); whatever is
closer than that, about one draw in ten million, `settling` decides with further bits. So no draw depends on how a
library computes a logarithm, and there is no smallest probability. Tails end where 64-bit integers do, at 2^32 scales.

How many words a draw takes depends on the draw, never on what it is added to; so a stream's position tells nothing of
the data. How *long* it takes is not hidden.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedveil.privacy import settling
from fedveil.privacy.settling import STRIPS, Bits, Law
from fedveil.randomness import SecretStream

LARGEST_STEPS = 1 << 31
"""More grid steps in one scale would overflow the products of 64 bits below."""

_CHUNK = 1 << 15  # draws that fit a processor's cache; another number makes other draws of a stream: noise.GRID_VERSION
_TRIES = 3  # at once for a draw that was rejected: three of a hundred are
_CHOICE, _HEIGHT, _BUCKETS = 31, 32, 12  # bits
_SLACK = 2.0**-8  # in units of 2^-32: the polynomial is at most 2^-46 off
Where = slice | NDArray[np.int64]
"""Places in a vector: a stretch of it, or indices, each once."""

_MIXED = np.uint64(1 << 20)
_ORDER = 12


@dataclasses.dataclass(frozen=True)
class _Table:
    """Strips as integers: `ends` of the strips in 2^-31; per bucket of 2^-12 its strip or `_MIXED`; `sure` heights."""

    ends: NDArray[np.uint64]
    buckets: NDArray[np.uint64]
    sure: NDArray[np.uint64]


@functools.lru_cache(maxsize=2)
def _table(law: Law) -> _Table:
    low, high = settling.cumulative(law, _CHOICE)
    kept = low.index((1 << _CHOICE) - 1) + 1  # the strips behind share the last number, which is never decided here
    if any(end - start != 1 for start, end in zip(low[:kept], high[:kept], strict=True)):
        raise AssertionError("The ends of the strips are not known to one unit.")
    ends = np.array(low[:kept], np.uint64)
    width = 1 << (_CHOICE - _BUCKETS)
    first = np.arange(1 << _BUCKETS, dtype=np.uint64) * np.uint64(width)
    strips = np.searchsorted(ends, first, side="left")  # an end in the bucket itself makes it mixed
    whole = strips == np.searchsorted(ends, first + np.uint64(width - 1), side="right")
    buckets = np.where(whole, strips.astype(np.uint64), _MIXED)
    # The whole strip is accepted below the least probability in it.
    sure = [settling.decay(*settling.exponent(law, strip, 1, 0), _HEIGHT)[0] for strip in range(kept + 1)]
    return _Table(ends, buckets, np.array(sure, np.uint64))


def rounded(law: Law, stream: SecretStream, steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return independent draws of round(steps * Z), one for each element of `steps` (n,), in 1..`LARGEST_STEPS`.

    >>> values = rounded("gaussian", SecretStream(bytes(32)), np.full(1000, 2**20))
    >>> values.dtype, 0.9 < float(values.std()) / 2**20 < 1.1
    (dtype('int64'), True)
    """
    out = np.zeros(steps.size, np.int64)

    def add(where: Where, drawn: NDArray[np.int64]) -> None:
        out[where] += drawn

    scattered(law, stream, steps, add)
    return out


def scattered(
    law: Law, stream: SecretStream, steps: NDArray[np.int64], add: Callable[[Where, NDArray[np.int64]], None]
) -> None:
    """Hand out the draws of `rounded` as they are made, few at a time, for whoever adds them to something.

    Args:
        law: of the draws.
        stream: the same numbers of it are used, in the same order, as by `rounded`.
        steps: as in `rounded`.
        add: told places, each once in a call, and integers to add there; a place's integers over all calls are its one
            draw and zeros.
    """
    if steps.ndim != 1 or (steps.size and not (steps.min() >= 1 and steps.max() <= LARGEST_STEPS)):
        raise ValueError(f"Expected steps (n,) in 1..{LARGEST_STEPS}.")
    pending = [np.empty(0, np.int64)]
    for begin in range(0, steps.size, _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        values, rejected = _drawn(law, stream, steps[chunk].astype(np.uint64))
        values[rejected] = 0
        add(chunk, values)
        pending.append(rejected + begin)
    left = np.concatenate(pending)
    while left.size:  # each takes the first of a few that is accepted
        values, rejected = _drawn(law, stream, np.repeat(steps[left].astype(np.uint64), _TRIES))
        accepted = np.ones((left.size, _TRIES), np.bool_)
        accepted.reshape(-1)[rejected] = False
        found = accepted.any(1)
        add(left[found], values.reshape(-1, _TRIES)[np.arange(left.size), accepted.argmax(1)][found])
        left = left[~found]


def _drawn(law: Law, stream: SecretStream, steps: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one draw for each of `steps`, and the indices of those that were rejected and are to be drawn again."""
    table = _table(law)
    words = stream.words(2 * steps.size)
    first, place = words[: steps.size], words[steps.size :]
    strip = table.buckets[(first >> np.uint64(64 - _BUCKETS)).astype(np.intp)]
    mixed = np.flatnonzero(strip == _MIXED)
    choice = first[mixed] >> np.uint64(64 - _CHOICE)
    strip[mixed] = np.searchsorted(table.ends, choice, side="right")
    unsure = [mixed[table.ends[np.maximum(strip[mixed].astype(np.intp), 1) - 1] == choice]]

    height = first & np.uint64(0xFFFFFFFF)
    close = np.flatnonzero(height >= table.sure[strip.astype(np.intp)])
    accept, reject = _compared(law, strip[close], place[close], height[close])
    unsure.append(close[~accept & ~reject])

    # steps * (strip * 2^64 + place) / 2^68 in parts: multiples of STRIPS first, the rest in units of 2^-36.
    edges = steps * strip
    rest = steps * (place >> np.uint64(32)) + (steps * (place & np.uint64(0xFFFFFFFF)) >> np.uint64(32))
    rest += ((edges & np.uint64(STRIPS - 1)) << np.uint64(32)) + np.uint64(1 << 35)
    sizes = ((edges >> np.uint64(4)) + (rest >> np.uint64(36))).astype(np.int64)
    # What is left out is below 1.5 units, so it changes the integer behind a row of ones at most.
    unsure.append(np.flatnonzero(rest & np.uint64((1 << 36) - 1) == np.uint64((1 << 36) - 1)))

    rejected = close[reject]
    if any(part.size for part in unsure):
        doubts = np.unique(np.concatenate(unsure))
        rejected = np.setdiff1d(rejected, doubts)
        again = []
        for index in doubts.tolist():
            bits = (Bits(first[index] >> np.uint64(33), 31, stream), Bits(place[index], 64, stream))
            size = settling.settled(law, int(steps[index]), *bits, Bits(height[index], 32, stream))
            if size is None:
                again.append(index)
            else:
                sizes[index] = size
        rejected = np.concatenate([rejected, np.array(again, np.int64)])
    negative = (first >> np.uint64(32) & np.uint64(1)).astype(np.int64)
    return (sizes ^ -negative) + negative, rejected


def _compared(
    law: Law, strip: NDArray[np.uint64], place: NDArray[np.uint64], height: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where heights are surely below, and surely above, exp(phi(left edge) - phi(x)).

    The exponent is below 1/2 and off by a few parts in 2^53; Horner's scheme of degree 12 adds at most 2^-49 for the
    missing terms and 26 roundings, together far below 2^-40.
    """
    part = place.astype(np.float64) * 2.0**-64
    t = part / STRIPS
    if law == "gaussian":
        t = t * (2.0 * strip.astype(np.float64) + part) / (2 * STRIPS)
    value = np.ones_like(t)
    for order in range(_ORDER, 0, -1):
        value = 1.0 - t / order * value
    value *= 2.0**32
    edges = height.astype(np.float64)
    return edges + 1.0 <= value - _SLACK, edges >= value + _SLACK
