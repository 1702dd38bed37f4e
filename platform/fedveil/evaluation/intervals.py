"""Confidence intervals by resampling identities: pairs that share a person are not independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks

_CHUNK = 100  # resamples at a time, to bound memory
Identities = NDArray[np.integer[Any]]


def identity_weights(
    left: Identities, right: Identities, rng: np.random.Generator, repeats: int
) -> Iterator[NDArray[np.float64]]:
    """Yield, in chunks (R, P), how often each pair occurs when identities are drawn with replacement.

    With c(i) the number of times that identity i was drawn, a different pair (i, j) occurs c(i) c(j) times and a same
    pair of i occurs c(i) times (a pair lives inside one copy of its person). Resampling the vertices of a network:
    Snijders and Borgatti 1999. Different pairs that share nobody vary up to sqrt(3) times too much, so intervals err on
    the wide side.
    """
    checks.same_shape(left.shape, right=right.shape)
    checks.positive(repeats=repeats)
    people, number = np.unique(np.concatenate([left, right]), return_inverse=True)
    first, second = number[: len(left)], number[len(left) :]
    for start in range(0, repeats, _CHUNK):
        rows = min(_CHUNK, repeats - start)
        drawn = rng.integers(0, len(people), (rows, len(people))) + len(people) * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * len(people)).reshape(rows, len(people)).astype(np.float64)
        yield times[:, first] * np.where(first == second, 1.0, times[:, second])


def bootstrap_interval(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    left: Identities,
    right: Identities,
    rng: np.random.Generator,
    repeats: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of a weighted statistic over resampled identities.

    Args:
        statistic: maps pair weights (R, P) to values (R,); NaN (a resample without what it needs) is left out.
        left: (P,) identity of the first image of each pair.
        right: (P,) identity of the second.
        rng: public randomness; the interval is a function of it.
        repeats: number of resamples.
        level: coverage asked for, in (0, 1].
    """
    checks.fraction(level=level)
    values = np.concatenate([statistic(weights) for weights in identity_weights(left, right, rng, repeats)])
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def weighted_accuracy(
    right_answers: NDArray[np.float64], same: NDArray[np.bool_]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the statistic "share of right answers" for `bootstrap_interval`; the share of same pairs is held fixed.

    Args:
        right_answers: (P,) 1 where the decision was right, 0 where wrong, or a mean of that over noise draws. The
            thresholds are those of the full data: their own spread is not in the interval.
        same: (P,).
    """
    share = float(same.mean())

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        value = np.zeros(len(weights))
        for kind, part in ((same, share), (~same, 1.0 - share)):
            if part > 0:
                total = weights[:, kind].sum(axis=1)
                hits = weights[:, kind] @ right_answers[kind]
                value += part * np.divide(hits, total, out=np.full(len(weights), np.nan), where=total > 0)
        return value

    return statistic
