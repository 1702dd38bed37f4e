"""Who is recognised: acceptance at a false accept rate, rank in a gallery, and intervals over people."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import checks

Floats = NDArray[np.floating]
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of people, with its 95 % bootstrap interval over people."""

    value: float
    low: float
    high: float


def threshold_at(impostors: Floats, far: float) -> float:
    """Return the smallest threshold at which at most a share `far` of impostor pairs scores above it.

    Args:
        impostors: (P,) cosines of pairs of different people, at least 10 / far of them.
        far: false accept rate in (0, 1).

    Raises:
        fedveil.checks.UserError: too few pairs to resolve the rate.

    >>> threshold_at(np.linspace(0, 1, 1001), 0.1)
    0.9
    """
    checks.fraction(far=far)
    if impostors.size < 10 / far:
        raise checks.UserError(
            f"A false accept rate of {far:g} needs {10 / far:.0f} pairs of different people, there are "
            f"{impostors.size}: take more people (attack.victims) or a larger attack.far."
        )
    allowed = int(far * impostors.size)
    return float(np.sort(impostors)[::-1][allowed])


def impostor_scores(first: Floats, second: Floats) -> NDArray[np.float64]:
    """Return the cosines of all pairs of different people of two galleries (N, D) in the same order of people.

    >>> impostor_scores(np.eye(2), np.eye(2)).tolist()
    [0.0, 0.0]
    """
    scores = unit(first) @ unit(second).T
    return scores[~np.eye(len(scores), dtype=bool)]


def unit(vectors: Floats) -> NDArray[np.float64]:
    """Return rows of length one; a row of zeros, or one that is not finite, stays zero and resembles nobody."""
    rows = np.nan_to_num(vectors.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.float64] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return found


def ranks(probes: Floats, gallery: Floats) -> NDArray[np.int64]:
    """Return (N,) the rank, from 1, of each probe's own person in a gallery of one row a person; ties count against.

    >>> ranks(np.array([[1.0, 0.1], [1.0, 0.0]]), np.eye(2)).tolist()
    [1, 2]
    """
    scores = unit(probes) @ unit(gallery).T
    own = np.diagonal(scores)
    found: NDArray[np.int64] = (scores >= own[:, None]).sum(axis=1)
    return found


def mean_over_people(values: Floats, rng: np.random.Generator, repeats: int = _RESAMPLES) -> Share:
    """Return the mean of one value a person, with its bootstrap interval over people.

    Args:
        values: (N,), one for each person.
        rng: public randomness.
        repeats: resamples.
    """
    values = np.asarray(values, np.float64)
    checks.positive(people=values.size)
    means = values[rng.integers(0, values.size, (repeats, values.size))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Share(float(values.mean()), float(low), float(high))
