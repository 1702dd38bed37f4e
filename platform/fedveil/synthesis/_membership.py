"""Are synthetic faces nearer to members than to strangers? Three signs of it, each beside what chance gives.

Chance exchanges the member and the stranger of one number, who have equally many pictures, by fair coins: where nobody
was learnt that changes nothing. So a real face that looks like everybody does not pass for leakage. All three signs are
sums over numbers, of one value for the pair as it is and another one for the pair exchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil.evaluation import verification
from fedveil.synthesis._search import Nearest

_RESAMPLES, _CHUNK = 1000, 100
_COINS = 5000
_FIRST = 10  # people nearest to any synthetic picture

Values = NDArray[np.float64]


def nearest_share(
    members: Nearest, strangers: Nearest, numbers: NDArray[np.int64], weights: Values, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the share of synthetic pictures whose nearest person is a member, ties counting half.

    Args:
        members: nearest members, people numbered 0..P-1 as the strangers are.
        strangers: nearest strangers.
        numbers: (M,) the person on each picture of either group.
        weights: (N,) of the synthetic pictures, 1 in all.
        rng: public.
    """
    inside = weights * ((members.cosine > strangers.cosine) + (members.cosine == strangers.cosine) / 2)
    people = len(members.people)
    kept = np.bincount(numbers[members.picture], inside, people)
    exchanged = np.bincount(numbers[strangers.picture], weights - inside, people)
    return beside_chance(kept.astype(np.float64), exchanged.astype(np.float64), rng)


def first_people(members: Values, strangers: Values, rng: np.random.Generator) -> dict[str, Any]:
    """Return how many members are among the ten people with the largest cosines: a few copies are seen here.

    Args:
        members: (P,) each person's largest cosine to any synthetic picture.
        strangers: (P,).
        rng: public.
    """
    first = min(_FIRST, len(members))
    least = np.sort(np.concatenate([members, strangers]))[-first]
    found = beside_chance((members >= least).astype(np.float64), (strangers >= least).astype(np.float64), rng)
    return {"people": first, **found}


def area(members: Values, strangers: Values, rng: np.random.Generator) -> dict[str, Any]:
    """Return the chance that a member scores above a stranger, ties counting half: the area under the curve.

    The interval is a 95 % bootstrap over people, of both kinds apart.

    Args:
        members: (P,) one score a person, numbered as the strangers are.
        strangers: (P,).
        rng: public.

    >>> found = area(np.array([0.9, 0.8]), np.array([0.1, 0.2]), np.random.default_rng(1))
    >>> found["value"], found["low"], found["high"]
    (1.0, 1.0, 1.0)
    """
    scores, count = np.concatenate([members, strangers]), len(members)
    _, tie, many = np.unique(scores, return_inverse=True, return_counts=True)
    order = np.argsort(tie, kind="stable")
    starts = np.cumsum(many) - many
    values = []
    for begin in range(0, _RESAMPLES, _CHUNK):
        rows = min(_CHUNK, _RESAMPLES - begin)
        inside, outside = np.zeros((2, rows, len(scores)))
        inside[:, :count], outside[:, count:] = _times(count, rows, rng), _times(len(strangers), rows, rng)
        inside, outside = (np.add.reduceat(one[:, order], starts, axis=1) for one in (inside, outside))
        below = np.cumsum(outside, axis=1) - outside
        values.append((inside * (below + outside / 2)).sum(axis=1) / (count * len(strangers)))
    low, high = np.quantile(np.concatenate(values), (0.025, 0.975)).tolist()
    ranks = (starts + (many - 1) / 2)[tie]  # from 0, ties in the middle: their sum is the area but for a constant
    parts = (ranks - (count - 1) / 2) / (count * len(strangers))
    found = beside_chance(parts[:count], parts[count:], rng)
    value = verification.auc(scores, np.arange(len(scores)) < count)
    return {**found, "value": value, "low": low, "high": high}


def beside_chance(kept: Values, exchanged: Values, rng: np.random.Generator) -> dict[str, Any]:
    """Return the sum of `kept`, the 95 % range of sums in which coins take `exchanged` instead, and the one-sided p.

    Args:
        kept: (P,).
        exchanged: (P,).
        rng: public.
    """
    parts = [rng.integers(0, 2, (_CHUNK, len(kept))) @ (kept - exchanged) for _ in range(0, _COINS, _CHUNK)]
    chance = np.concatenate(parts) + exchanged.sum()
    low, high = np.quantile(chance, (0.025, 0.975)).tolist()
    value = float(kept.sum())
    p = float((1 + (chance >= value - 1e-9).sum()) / (1 + len(chance)))
    return {"value": value, "chance_low": low, "chance_high": high, "p": p}


def _times(count: int, rows: int, rng: np.random.Generator) -> Values:
    """Return (rows, count) how often each is drawn, with replacement."""
    drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
