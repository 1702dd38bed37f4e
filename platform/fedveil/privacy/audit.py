"""Lower bounds on epsilon from experiments: what an adversary was seen to achieve, at a stated confidence.

An accountant bounds the privacy loss from above by proof, an audit from below by attack. A lower bound above the claim
refutes the claim; one below it proves nothing. Every function returns a number that exceeds the true epsilon with
probability at most `level`, whatever the attack's scores are: a bad score only makes the bound small.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fedveil import checks

_LARGEST = 60.0  # nats: no experiment of a size that ends resolves more
_CANDIDATES = 25  # thresholds tried on the pilot half, from each end


@dataclasses.dataclass(frozen=True)
class Counts:
    """Outcomes of one test of "was it there?"; numbers, or arrays of equal shape for many thresholds at once.

    Attributes:
        hits: how often the test said yes when it was there.
        present: how often it was there.
        alarms: how often the test said yes when it was not.
        absent: how often it was not there.
    """

    hits: ArrayLike
    present: int
    alarms: ArrayLike
    absent: int

    def __post_init__(self) -> None:
        checks.positive(present=self.present, absent=self.absent)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of independent trials, higher where the adversary believes "present".

    Attributes:
        present: (n,) scores where it was there.
        absent: (m,) scores where it was not.
    """

    present: NDArray[np.float64]
    absent: NDArray[np.float64]

    def counts(self, thresholds: ArrayLike) -> Counts:
        """Return the outcomes of saying yes above each threshold."""
        present, absent = np.sort(self.present), np.sort(self.absent)
        hits = present.size - np.searchsorted(present, thresholds, "right")
        alarms = absent.size - np.searchsorted(absent, thresholds, "right")
        return Counts(hits, present.size, alarms, absent.size)

    def halves(self) -> tuple[Scores, Scores]:
        """Return the trials of even and of odd number: a pilot to choose on, a test to count on."""
        first, second = (Scores(self.present[at::2], self.absent[at::2]) for at in (0, 1))
        return first, second


def _errors(counts: Counts, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return upper limits of false alarms and of misses, both together at confidence 1 - level (Clopper-Pearson)."""
    _check(level)
    alarms, hits = np.asarray(counts.alarms, float), np.asarray(counts.hits, float)
    misses = counts.present - hits
    found = []
    for wrong, trials in ((alarms, counts.absent), (misses, counts.present)):
        limit = stats.beta.ppf(1 - level / 2, wrong + 1, np.maximum(trials - wrong, 1e-300))
        found.append(np.where(wrong >= trials, 1.0, limit))
    return found[0], found[1]


def clopper_pearson(counts: Counts, delta: float, level: float = 0.05) -> Any:
    """Return the lower bound on epsilon at `delta` from exact binomial limits, both directions; at least 0.

    From TPR <= e^epsilon FPR + delta and its mirror image (Jagielski, Ullman and Oprea, NeurIPS 2020). It assumes
    nothing of the mechanism, and cannot exceed about ln(n / 3.7) with n trials on each side.

    Args:
        counts: outcomes on trials that did not choose the threshold.
        delta: in [0, 1).
        level: probability of a bound above the truth.

    Returns:
        A float, or an array where `counts` holds arrays.

    >>> round(clopper_pearson(Counts(900, 1000, 20, 1000), 1e-5), 3)
    3.355
    """
    alarms, misses = _errors(counts, level)
    with np.errstate(divide="ignore"):
        removed = np.log(np.maximum(1 - delta - misses, 0) / alarms)
        added = np.log(np.maximum(1 - delta - alarms, 0) / misses)
    return _plain(np.maximum(np.maximum(removed, added), 0.0))


def gaussian_mu(counts: Counts, level: float = 0.05) -> Any:
    """Return the lower bound on mu of a Gaussian trade-off curve, at least 0 (Nasr et al., USENIX Security 2023).

    A mechanism whose trade-off curve is Gaussian with parameter mu lets nobody have a false-alarm rate a and a miss
    rate b with Phi^-1(1 - a) - Phi^-1(b) above mu. Valid as a test of a Gaussian claim: one release without sampling,
    or several of them. It loses nothing in translation, so it sees errors of a few percent in the noise.

    >>> from fedveil.privacy import gaussian
    >>> mu = gaussian_mu(Counts(900, 1000, 20, 1000))
    >>> round(mu, 3), round(gaussian.epsilon_of(mu, 1e-5), 2)
    (3.044, 16.99)
    """
    alarms, misses = _errors(counts, level)
    with np.errstate(invalid="ignore"):
        found = stats.norm.isf(alarms) - stats.norm.ppf(misses)
    return _plain(np.where((alarms < 1) & (misses < 1), np.maximum(found, 0.0), 0.0))


def one_run(canaries: int, guesses: int, correct: int, delta: float, level: float = 0.05) -> float:
    """Return the lower bound on epsilon from one run with many canaries, each there by its own fair coin.

    For an (epsilon, delta)-DP mechanism the number of correct guesses is dominated by a binomial of success rate
    e^epsilon / (1 + e^epsilon), up to a term in delta (Steinke, Nasr and Jagielski, NeurIPS 2023, theorem 5.2). The
    canaries need not be independent of one another given the coins.

    Args:
        canaries: m, all canaries.
        guesses: r, about how many of them a guess was ventured; chosen before looking at the coins.
        correct: v, right guesses.
        delta: in [0, 1); the bound is empty unless m * delta is small.
        level: probability of a bound above the truth.

    >>> round(one_run(1000, 100, 95, 1e-5), 3), one_run(1000, 100, 50, 1e-5)
    (2.165, 0.0)
    """
    _check(level)
    if not 0 <= correct <= guesses <= canaries:
        raise checks.UserError(f"Expected correct={correct} <= guesses={guesses} <= canaries={canaries}.")

    def chance(epsilon: float) -> float:
        right = stats.binom(guesses, 1.0 / (1.0 + math.exp(-epsilon)))
        below = right.cdf(correct - 1)
        lost = np.arange(1, correct + 1)
        # P[v - i <= Bin < v] / i: the cheapest way to turn i wrong guesses into right ones with mass delta.
        term = float(((below - right.cdf(correct - 1 - lost)) / lost).max()) if correct else 0.0
        return float(right.sf(correct - 1)) + 2 * canaries * delta * term

    low, high = 0.0, _LARGEST
    if not correct or chance(low) > level:
        return 0.0
    while high - low > 1e-6:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if chance(middle) <= level else (low, middle)
    return low


def one_run_of(scores: Scores, delta: float, level: float = 0.05) -> float:
    """Return `one_run`'s bound for guesses "there" on the highest scores and "not there" on as many lowest.

    Several numbers of guesses are tried, each at its share of `level`. Presence must come from fair coins.
    """
    values = np.concatenate([scores.present, scores.absent])
    there = np.repeat([True, False], [scores.present.size, scores.absent.size])
    ranked = there[np.argsort(values, kind="stable")]
    sides = sorted({max(1, int(ranked.size * share)) for share in (0.01, 0.025, 0.05, 0.1, 0.25)})
    sides = [side for side in sides if 2 * side <= ranked.size]
    found = [
        one_run(ranked.size, 2 * side, int(ranked[-side:].sum() + (~ranked[:side]).sum()), delta, level / len(sides))
        for side in sides
    ]
    return max(found, default=0.0)


def by_halves(scores: Scores, bound: Callable[[Counts], Any]) -> tuple[float, Counts]:
    """Return a bound and its outcomes on one half of the trials, at the threshold that is best on the other half."""
    pilot, test = scores.halves()
    pooled = np.unique(np.concatenate([pilot.present, pilot.absent]))
    # Ranks grow geometrically from both ends: extreme thresholds matter most for large epsilons, where both errors are
    # rare, and few candidates leave little room for luck.
    ranks = np.unique(np.geomspace(1, pooled.size, _CANDIDATES).astype(int)) - 1
    pooled = pooled[np.unique(np.concatenate([ranks, pooled.size - 1 - ranks]))]
    best = pooled[int(np.argmax(bound(pilot.counts(pooled))))]
    counts = test.counts(best)
    return float(bound(counts)), counts


def _check(level: float) -> None:
    if not 0 < level < 1:
        raise checks.UserError(f"Expected level={level!r} in (0, 1), for example 0.05.")


def _plain(values: NDArray[np.float64]) -> Any:
    return float(values) if np.ndim(values) == 0 else values
