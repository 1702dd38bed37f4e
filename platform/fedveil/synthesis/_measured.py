"""What a recogniser says of labelled faces: one person's pictures alike, different people apart, pictures varied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, randomness
from fedveil.evaluation import verification
from fedveil.evaluation.identification import Share, mean_over_people, threshold_at, unit

FARS = (1e-2, 1e-3)
_PAIRS = 1_000_000  # of one kind, at most
_RESAMPLES = 1000
_RESAMPLED = 4000  # people in the interval of what pairs of people give, at most
_CHUNK = 2**24  # numbers at a time

Values = NDArray[np.float64]
Said = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Cosines of pairs of pictures.

    Attributes:
        same: (S,) of one person.
        person: (S,) whose, 0..K-1.
        different: (I,) of two people.
    """

    same: Values
    person: NDArray[np.int64]
    different: Values


def said(share: Share) -> Said:
    """Return a mean with its 95 % bootstrap interval over people as plain JSON types."""
    return {"value": share.value, "low": share.low, "high": share.high}


def measured(
    embeddings: Values, labels: NDArray[np.int64], seed: int, elsewhere: Mapping[str, Mapping[float, float]]
) -> tuple[Said, dict[float, float]]:
    """Return what a recogniser says of faces, and its thresholds at `FARS`.

    Args:
        embeddings: (N, D).
        labels: (N,) 0..K-1, each at least twice, K at least 2.
        seed: public, of pairs that are drawn where there are too many, and of intervals.
        elsewhere: name of another set -> false accept rate -> threshold there: the share of pairs of one person that
            is accepted at it is told too.

    Returns:
        Plain JSON types; a rate that too few pairs resolve is {"omitted": reason}.
    """
    rows = unit(embeddings)
    pairs = pairs_of(rows, labels, seed)
    people = int(labels.max()) + 1
    scores = np.concatenate([pairs.same, pairs.different])
    same = np.arange(len(scores)) < len(pairs.same)
    thresholds: dict[float, float] = {}
    tar: dict[str, Said] = {}
    for far in FARS:
        try:
            thresholds[far] = threshold_at(pairs.different, far)
        except checks.UserError:
            few = f"FAR {far:g} needs {10 / far:.0f} pairs of different people, there are {len(pairs.different)}"
            tar[f"{far:g}"] = {"omitted": few}
            continue
        rate = verification.tar_at_far(scores, same, [far])[far]
        tar[f"{far:g}"] = {**_accepted(pairs, thresholds[far], people, seed), "value": rate}
    other = {
        name: {f"{far:g}": _accepted(pairs, threshold, people, seed) for far, threshold in its.items()}
        for name, its in elsewhere.items()
    }
    sums, counts = _sums(rows, labels), np.bincount(labels)
    centres = unit(sums)
    nearest = (rows * unit(sums[labels] - rows)).sum(1)  # the other pictures' centre: its own pulls it to itself
    apart = rows - (sums / counts[:, None])[labels]
    spread = np.sqrt(np.bincount(labels, np.einsum("nd,nd->n", apart, apart)) / (counts - 1))
    between = _between(centres, randomness.public_rng(seed, "judged", "between"))
    found = {
        "consistency": {
            "pair_cosine": _over(_mean_by(pairs.same, pairs.person), seed, "pairs"),
            "centre_cosine": _over(_mean_by(nearest, labels), seed, "centre"),
            "tar": tar, **({"accepted_at": other} if other else {}),
            "auc": verification.auc(scores, same), "eer": verification.eer(scores, same),
            "pairs": {"same": len(pairs.same), "different": len(pairs.different)},
        },
        "between": between, "within": {"embedding_sd": _over(spread, seed, "spread")},
    }  # fmt: skip
    return found, thresholds


def attributes(
    described: Values, labels: NDArray[np.int64], names: Sequence[str], seed: int
) -> dict[str, dict[str, Said]]:
    """Return the standard deviation of each attribute (N, A) within a person, a mean over people, and over all."""
    counts = np.bincount(labels)
    apart = described - (_sums(described, labels) / counts[:, None])[labels]
    found = {}
    for number, name in enumerate(names):
        within = np.sqrt(np.bincount(labels, apart[:, number] ** 2) / (counts - 1))
        overall = float(described[:, number].std(ddof=1))
        found[name] = {"within": _over(within, seed, name), "overall": {"value": overall}}
    return found


def pairs_of(rows: Values, labels: NDArray[np.int64], seed: int) -> Pairs:
    """Return all pairs of rows (N, D) of length one; where there are more, a million of a kind by the seed."""
    rng = randomness.public_rng(seed, "judged", "pairs")
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    most, chosen = max(1, _PAIRS // len(starts)), []
    for places in np.split(order, starts[1:]):
        first, second = np.triu_indices(len(places), 1)
        if len(first) > most:
            some = rng.choice(len(first), most, replace=False)
            first, second = first[some], second[some]
        chosen.append((places[first], places[second]))
    one, two = (np.concatenate(part) for part in zip(*chosen, strict=True))
    total = len(labels) * (len(labels) - 1) // 2
    if total <= _PAIRS:
        left, right = np.triu_indices(len(labels), 1)
    else:
        left, right = rng.integers(0, len(labels), (2, _PAIRS))
    apart = labels[left] != labels[right]
    return Pairs(_cosines(rows, one, two), labels[one], _cosines(rows, left[apart], right[apart]))


def _cosines(rows: Values, first: NDArray[np.int64], second: NDArray[np.int64]) -> Values:
    step = max(1, _CHUNK // rows.shape[1])
    parts = [
        np.einsum("nd,nd->n", rows[first[i : i + step]], rows[second[i : i + step]])
        for i in range(0, len(first), step)
    ]  # fmt: skip
    return np.concatenate(parts) if parts else np.zeros(0)


def _sums(rows: Values, labels: NDArray[np.int64]) -> Values:
    order = np.argsort(labels, kind="stable")
    found: Values = np.add.reduceat(rows[order], np.searchsorted(labels[order], np.arange(labels.max() + 1)))
    return found


def _mean_by(values: Values, labels: NDArray[np.int64]) -> Values:
    found: Values = np.bincount(labels, values) / np.bincount(labels)
    return found


def _over(values: Values, seed: int, what: str) -> Said:
    return said(mean_over_people(values, randomness.public_rng(seed, "judged", what)))


def _accepted(pairs: Pairs, threshold: float, people: int, seed: int) -> Said:
    """Return the share of pairs of one person above a threshold, which the interval takes as given."""
    hits = np.bincount(pairs.person, pairs.same > threshold, people)
    counts = np.bincount(pairs.person, minlength=people)
    rng = randomness.public_rng(seed, "judged", "accepted")
    drawn = rng.integers(0, people, (_RESAMPLES, people))
    low, high = np.quantile(hits[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return {"value": float(hits.sum() / counts.sum()), "low": float(low), "high": float(high)}


def _between(centres: Values, rng: np.random.Generator) -> Said:
    """Return the mean cosine of two people's centres (K, D), and the largest.

    The interval resamples people: a pair occurs as often as both were drawn, two copies of one person are no pair.
    """
    count, step = len(centres), max(1, _CHUNK // len(centres))
    largest = -1.0
    for start in range(0, count, step):
        cosines = centres[start : start + step] @ centres.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -1.0
        largest = max(largest, float(cosines.max()))
    total = centres.sum(axis=0)
    value = float((total @ total - np.einsum("kd,kd->", centres, centres)) / (count * (count - 1)))
    some = centres if count <= _RESAMPLED else centres[rng.choice(count, _RESAMPLED, replace=False)]
    means = np.full(_RESAMPLES, np.nan)
    for number in range(_RESAMPLES):
        times = np.bincount(rng.integers(0, len(some), len(some)), minlength=len(some)).astype(np.float64)
        pull, alone = times @ some, (times**2).sum()
        squares = (times**2) @ np.einsum("kd,kd->k", some, some)
        if alone < len(some) ** 2:  # else one person was drawn every time
            means[number] = (pull @ pull - squares) / (len(some) ** 2 - alone)
    low, high = np.nanquantile(means, (0.025, 0.975)).tolist()
    return {"mean_cosine": {"value": value, "low": low, "high": high}, "largest_cosine": {"value": largest}}
