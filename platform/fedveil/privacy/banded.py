"""Banded matrix factorisation: noise that is correlated over rounds, so that much of it cancels in the model.

A model after t rounds is a prefix sum of the rounds' updates. Independent noise adds up in it; noise C^-1 Z, for a
lower triangular C and independent rows Z, adds up to less (Kairouz et al., "Practical and Private (Deep) Learning
without Sampling or Shuffling", ICML 2021). With b bands C has b non-zero diagonals, and round t needs the noise of the
b - 1 rounds before it (Choquette-Choo et al., "(Amplified) Banded Matrix Factorization", NeurIPS 2023,
https://arxiv.org/abs/2306.08153).

Guarantee. Releasing X + C^-1 Z is releasing C X + Z and computing from it; row t of X is the sum of round t, in which a
unit moves a vector of norm at most 1. Let every unit take part in rounds of one residue modulo b only, by coins that
are fresh in every round. Column t of C is non-zero in rows t to t + b - 1 alone, so a unit's participations touch rows
of their own, each like one vector of norm ||c_t|| <= 1 under its coin. Show the adversary those b noisy rows at once,
in round t: all later choices are functions of what it has then. So a unit pays for one sampled Gaussian release of
multiplier z for every round of its residue, and nothing for other rounds. That is (their theorem 4) what ceil(T / b)
releases at the rate within its residue cost, whatever C is, as long as no column is longer than 1.

A stream that is cut after any round and begun anew, with fresh rows and another C, costs the same: columns before the
cut are only shorter, and participations after it are in the second stream, each one release again. What a restart
costs is the round that is run twice, and cancellation: noise across the cut is independent.

The same holds inside a client's local steps for units that join steps of one residue; noise is never stored, so there
the correlation could live within one round's steps only. Nothing here knows what a row is.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks

_DIGITS = 9  # of a coefficient: what an optimiser finds beyond them depends on the machine


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A banded lower triangular C with columns of norm 1: Toeplitz, each column divided by its own length.

    The last columns are cut by the end of the schedule; dividing by what is left makes full use of their norm.

    Attributes:
        coefficients: (b,) diagonals of the Toeplitz matrix, the main one first and positive.
        rounds: T, how many rows there are.
    """

    coefficients: tuple[float, ...]
    rounds: int

    def __post_init__(self) -> None:
        checks.positive(rounds=self.rounds, first_coefficient=self.coefficients[0])

    @property
    def bands(self) -> int:
        """How many diagonals are not zero: participations of one unit must be at least so many rounds apart."""
        return len(self.coefficients)

    def length(self, row: int) -> float:
        """Return what column `row` (from 0) is divided by, rounded up: no column is longer than 1."""
        return math.hypot(*self.coefficients[: self.rounds - row]) * (1 + 1e-15)

    def matrix(self) -> NDArray[np.float64]:
        """Return C, (T, T)."""
        found = np.zeros((self.rounds, self.rounds))
        for row in range(self.rounds):
            column = np.array(self.coefficients[: self.rounds - row]) / self.length(row)
            found[row : row + column.size, row] = column
        return found

    def sensitivity(self, participations: int) -> float:
        """Return how far a unit moves C X that takes part so often, at least b rounds apart, with vectors of norm 1."""
        return math.sqrt(participations)

    def error(self) -> float:
        """Return the mean over rounds of the squared error of a prefix sum, one coordinate, rows of Z of variance 1.

        Independent noise has (T + 1) / 2. The last column of A C^-1, A the prefix sums, is found like every other:
        weights of the inverse Toeplitz matrix times column lengths, summed down. O(T^2) time, O(T) memory.
        """
        from scipy import signal  # most runs need none of it

        impulse = np.zeros(self.rounds)
        impulse[0] = 1.0
        inverse = signal.lfilter([1.0], self.coefficients, impulse)
        lengths = np.array([self.length(row) for row in range(self.rounds)])
        total = 0.0
        for row in range(self.rounds):
            total += float((np.cumsum(lengths[row:] * inverse[: self.rounds - row]) ** 2).sum())
        return total / self.rounds

    def loudness(self) -> float:
        """Return which multiple of independent noise has this mean squared error: below 1 for two bands or more."""
        return math.sqrt(self.error() / ((self.rounds + 1) / 2))


@functools.lru_cache(maxsize=64)
def strategy(rounds: int, bands: int) -> Strategy:
    """Return the banded Toeplitz strategy of the smallest mean squared error of prefix sums, columns made equal.

    The error before the columns are made equal is a function of the b coefficients with an exact gradient, O(T b);
    descent from the square root of the prefix sums (Fichtenberger, Henzinger and Upadhyay, ICML 2023) finds the same
    minimum every time. General banded matrices are better by 1 to 3 % (experiments/matrix_noise).

    Raises:
        UserError: unless both are whole numbers of at least 1.

    >>> round(strategy(50, 1).error(), 2), round(strategy(50, 4).error(), 2), strategy(2, 4).bands
    (25.5, 8.56, 2)
    """
    from scipy import optimize, signal  # most runs need neither

    checks.positive(rounds=rounds, bands=bands)
    bands = min(bands, rounds)
    weights = np.arange(rounds, 0, -1, dtype=np.float64) / rounds
    impulse = np.zeros(rounds)
    impulse[0] = 1.0

    def error(rest: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found = np.concatenate([[1.0], rest])
        inverse = signal.lfilter([1.0], found, impulse)
        sums = np.cumsum(inverse)
        slopes = np.cumsum(signal.lfilter([1.0], found, inverse))  # minus d sums / d coefficient k, k places later
        squares, size = float(weights @ sums**2), float(found @ found)
        falls = [float((weights * sums)[k:] @ slopes[: rounds - k]) for k in range(1, bands)]
        return size * squares, 2 * rest * squares - 2 * size * np.array(falls)

    start = np.cumprod([1.0, *((2 * k - 1) / (2 * k) for k in range(1, bands))])
    rest = start[1:]
    if bands > 1:
        rest = optimize.minimize(error, rest, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return Strategy((1.0, *(round(float(value), _DIGITS) for value in rest)), rounds)


class Correlated:
    """The rows of C^-1 Z one after another, Z being independent rows that are given; O(b) rows of memory.

    It keeps the last b - 1 rows in memory and nowhere else: whoever knew them could take the noise off again.
    """

    def __init__(self, chosen: Strategy) -> None:
        self.strategy, self.row = chosen, 0
        self._recent: collections.deque[torch.Tensor] = collections.deque(maxlen=chosen.bands - 1)

    def next(self, fresh: torch.Tensor) -> torch.Tensor:
        """Return the next row of C^-1 Z from the next row of Z (d,), float64.

        Raises:
            UserError: after the last row of the strategy.
        """
        if self.row >= self.strategy.rounds:
            raise checks.UserError(f"Expected at most rounds={self.strategy.rounds} rows of noise; begin a new stream.")
        row = fresh.to(torch.float64, copy=True)
        # C is the Toeplitz matrix with columns divided: solved for the divided rows, which are then made whole.
        for coefficient, before in zip(self.strategy.coefficients[1:], self._recent, strict=False):
            row.sub_(before, alpha=coefficient)
        row /= self.strategy.coefficients[0]
        if self.strategy.bands > 1:
            self._recent.appendleft(row)
        whole = row * self.strategy.length(self.row)
        self.row += 1
        return whole
