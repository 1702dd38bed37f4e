"""Draws of rounded noise decided with as many random bits as it takes: integers and intervals, no rounding.

Both laws are drawn on strips of width 1 / STRIPS in units of the scale. With phi(x) = x^2 / 2 (Gaussian) or x (Laplace)
the density of |x| is proportional to exp(-phi(x)), which falls. So:

1. strip j = 0, 1, ... is chosen with probability proportional to exp(-phi(j / STRIPS)), its left and highest edge;
2. x = (j + u) / STRIPS with u uniform in [0, 1) is accepted with probability exp(phi(j / STRIPS) - phi(x));
3. the draw is the sign times floor(steps * x + 1/2).

What is accepted has exactly the density exp(-phi(x)), by rejection from a staircase above it, and a draw is exactly the
rounded one of step 3. Each of the three uniform numbers is a string of random bits that grows until the bits behind it
no longer matter (Karney, "Sampling exactly from the normal distribution", ACM TOMS 2016, works so bit by bit). Nothing
is cut off: a tail, a tie or a closest call costs more bits and never a decision by rounding. `exact` decides nearly all
draws many at a time and leaves the few that it cannot decide to this module.
"""

from __future__ import annotations

import bisect
import functools
from typing import Literal

from fedveil.randomness import SecretStream

Law = Literal["gaussian", "laplace"]
STRIPS = 16
"""Strips in one standard deviation or Laplace scale; a draw's law does not depend on it."""

_GUARD = 40
_FAR, _TAIL = 64, 17  # from strip 64 on, all further strips together weigh less than 17 times the next


class Bits:
    """A uniform number in [0, 1) of which `count` binary digits are known: it is in [value, value + 1) / 2^count."""

    def __init__(self, value: int, count: int, stream: SecretStream) -> None:
        self.value, self.count, self._stream = int(value), count, stream

    def more(self) -> None:
        """Draw 64 further digits."""
        self.value = self.value << 64 | int(self._stream.words(1)[0])
        self.count += 64


def decay(numerator: int, denominator: int, bits: int) -> tuple[int, int]:
    """Return integers around 2^bits * exp(-numerator / denominator), at most 2 apart, for an exponent of at least 0.

    The series of exp(t), whose terms are positive, is summed between bounds; the result is its reciprocal's bounds.

    >>> decay(1, 2, 20), 2**20 * 0.6065306597126334
    ((635993, 635994), 635993.4...)
    """
    unit = 1 << (bits + _GUARD)
    low = high = low_term = high_term = unit
    order = 0
    while high_term > 1 or order * denominator < 2 * numerator:
        order += 1
        low_term = low_term * numerator // (denominator * order)
        high_term = -(-high_term * numerator // (denominator * order))
        low, high = low + low_term, high + high_term
    high += high_term  # every further term is less than half of the one before
    return (unit << bits) // high, -(-(unit << bits) // low)


def exponent(law: Law, strip: int, place: int, count: int) -> tuple[int, int]:
    """Return phi(x) - phi(left edge) at x = (strip + place / 2^count) / STRIPS, as numerator and denominator."""
    if law == "laplace":
        return place, STRIPS << count
    return place * ((2 * strip << count) + place), 2 * STRIPS * STRIPS << 2 * count


@functools.lru_cache(maxsize=16)
def cumulative(law: Law, bits: int) -> tuple[list[int], list[int]]:
    """Return lists of integers around 2^bits * (probability of the strips 0..j), j ascending, to where it is nearly 1.

    The strips behind the last of them have a probability below 2^-bits together.
    """
    fine = bits + _GUARD
    lows, highs = [0], [0]
    strip = 0
    while True:
        weight = (strip, STRIPS) if law == "laplace" else (strip * strip, 2 * STRIPS * STRIPS)
        low, high = decay(*weight, fine)
        if strip >= _FAR and high <= 1 << (_GUARD // 2):
            break
        lows.append(lows[-1] + low)
        highs.append(highs[-1] + high)
        strip += 1
    least, most = lows[-1], highs[-1] + _TAIL * high
    below = [(value << bits) // most for value in lows[1:]]
    return below, [min(-(-(value << bits) // least), 1 << bits) for value in highs[1:]]


def strip_of(law: Law, choice: Bits) -> int:
    """Return the strip in which a uniform number falls."""
    while True:
        low, high = cumulative(law, choice.count)
        strip = bisect.bisect_right(low, choice.value)
        if strip < len(low) and (strip == 0 or choice.value >= high[strip - 1]):
            return strip
        choice.more()


def accepted(law: Law, strip: int, place: Bits, height: Bits) -> bool:
    """Return whether `height` is below exp(phi(left edge) - phi(x)) at the place in the strip."""
    while True:
        low, _ = decay(*exponent(law, strip, place.value + 1, place.count), height.count)
        _, high = decay(*exponent(law, strip, place.value, place.count), height.count)
        if height.value + 1 <= low:
            return True
        if height.value >= high:
            return False
        height.more()
        place.more()


def rounded(steps: int, strip: int, place: Bits) -> int:
    """Return floor(steps * x + 1/2) at x = (strip + place) / STRIPS."""
    while True:
        unit = 2 * STRIPS << place.count
        first = steps * ((strip << place.count) + place.value) * 2 + (unit >> 1)
        lowest, highest = first // unit, (first + 2 * steps - 1) // unit  # x stays below the end of its interval
        if lowest == highest:
            return lowest
        place.more()


def settled(law: Law, steps: int, choice: Bits, place: Bits, height: Bits) -> int | None:
    """Return the size of the draw that these bits make, in grid steps of 1 / `steps` of the scale; None: rejected."""
    strip = strip_of(law, choice)
    return rounded(steps, strip, place) if accepted(law, strip, place, height) else None
