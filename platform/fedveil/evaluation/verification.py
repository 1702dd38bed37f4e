"""Verification metrics of scored pairs: exact, by one sort and counts; equal scores are one threshold.

A pair is accepted when its score is at least the threshold. Every function takes `scores` (P,), higher meaning more
alike, and `same` (P,) bool. Metrics equal scikit-learn's (`roc_curve` without dropped points, `roc_auc_score`), ties
included. No grid of thresholds, no interpolation unless stated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedveil import checks

Floats = NDArray[np.floating[Any]]
Rate = float | dict[str, str]
"""A rate, or {"omitted": reason}."""


class FoldAccuracy(NamedTuple):
    """Accuracy over folds: mean, sample standard deviation (NaN for one fold), each fold's threshold and accuracy."""

    mean: float
    sd: float
    thresholds: NDArray[np.float64]
    accuracies: NDArray[np.float64]


def scores(left: Floats, right: Floats) -> NDArray[np.float64]:
    """Return the cosines of the rows of two (P, D) arrays; 0 where a row is zero.

    >>> scores(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[4.0, 3.0], [1.0, 0.0]]))
    array([0.96, 0.  ])
    """
    checks.same_shape(left.shape, right=right.shape)
    # In the input's own precision: converting inside einsum would triple the time.
    dots = np.einsum("ij,ij->i", left, right).astype(np.float64)
    norms = [np.sqrt(np.einsum("ij,ij->i", rows, rows)).astype(np.float64) for rows in (left, right)]
    product = norms[0] * norms[1]
    cosines: NDArray[np.float64] = np.divide(dots, product, out=np.zeros_like(dots), where=product > 0)
    return cosines


def best_threshold(scores: Floats, same: NDArray[np.bool_]) -> float:
    """Return the score at which most pairs are decided rightly; the highest such one, inf when accepting none is best.

    >>> best_threshold(np.array([0.9, 0.6, 0.4]), np.array([True, True, False]))
    0.6
    """
    _check(scores, same)
    order = np.argsort(-scores, kind="stable")
    gain = np.cumsum(np.where(same[order], 1, -1))
    gain[~_last_of_ties(scores[order])] = -len(gain)
    best = int(gain.argmax())
    return float(scores[order[best]]) if gain[best] > 0 else math.inf


def kfold_accuracy(scores: Floats, same: NDArray[np.bool_], folds: NDArray[np.integer[Any]]) -> FoldAccuracy:
    """Return the accuracy in each fold with the best threshold of the other folds (the LFW protocol).

    Args:
        scores: (P,).
        same: (P,).
        folds: (P,) any integers; at least two distinct ones. For a single fold see `sub_folds` and `held_accuracy`.
    """
    _check(scores, same, folds=folds)
    names, fold = np.unique(folds, return_inverse=True)
    if len(names) < 2:
        raise checks.UserError(f"Expected folds with at least 2 distinct values, got {names.tolist()}.")
    order = np.argsort(-scores, kind="stable")
    answer, fold = same[order], fold[order]
    inside = fold == np.arange(len(names))[:, None]  # (F, P)
    sign = np.where(answer, 1, -1)
    own_gain = np.cumsum(np.where(inside, sign, 0), axis=1, dtype=np.int32)
    # Pairs decided rightly when accepting up to here = gain + impostors; column 0 stands for accepting none.
    gain = np.cumsum(sign, dtype=np.int32) - own_gain
    gain[:, ~_last_of_ties(scores[order])] = -len(sign)
    best = gain.argmax(axis=1)
    row = np.arange(len(names))
    some = gain[row, best] > 0
    right = np.where(some, own_gain[row, best], 0) + (inside & ~answer).sum(axis=1)
    accuracies = right / inside.sum(axis=1)
    thresholds = np.where(some, scores[order[best]], np.inf).astype(np.float64)
    return FoldAccuracy(float(accuracies.mean()), float(accuracies.std(ddof=1)), thresholds, accuracies)


def held_accuracy(
    scores: Floats, same: NDArray[np.bool_], threshold_scores: Floats, threshold_same: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return (accuracy, threshold) of pairs with the best threshold of *other* pairs, for one held fold."""
    _check(scores, same)
    threshold = best_threshold(threshold_scores, threshold_same)
    return float(((scores >= threshold) == same).mean()), threshold


def sub_folds(same: NDArray[np.bool_], count: int = 10) -> NDArray[np.int64]:
    """Return (P,) folds for pairs that have none: `count` contiguous runs of the same and of the different pairs.

    Runs, because protocols list a person's pairs one after another: a person then mostly stays in one sub-fold. The
    sub-folds are *not* promised to be disjoint in identities; the one number that could leak between them is the
    threshold. Never more sub-folds than pairs of the rarer kind, and at least two.

    >>> sub_folds(np.array([True, True, True, True, False, False]), count=2)
    array([0, 0, 1, 1, 0, 1])
    """
    checks.positive(count=count)
    used = max(2, min(count, int(same.sum()), int((~same).sum())))
    out = np.empty(len(same), np.int64)
    for kind in (same, ~same):
        size = int(kind.sum())
        out[kind] = np.arange(size) * used // max(size, 1)
    return out


def roc(
    scores: Floats, same: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return false accept rates, true accept rates and thresholds, (0, 0, inf) first, then one per distinct score."""
    ordered, true, false = _counts(scores, same)
    return false / false[-1], true / true[-1], np.concatenate([[np.inf], ordered])


def auc(scores: Floats, same: NDArray[np.bool_]) -> float:
    """Return the chance that a same pair scores above a different pair, ties counting half.

    >>> auc(np.array([0.9, 0.5, 0.5]), np.array([True, True, False]))
    0.75
    """
    _, true, false = _counts(scores, same)
    twice = int(np.sum(np.diff(false) * (true[1:] + true[:-1])))  # exact: counts, not rates
    return twice / (2 * int(true[-1]) * int(false[-1]))


def eer(scores: Floats, same: NDArray[np.bool_]) -> float:
    """Return the rate e at which the ROC's straight segments meet false accepts = false rejects.

    A segment is what choosing at random between its two thresholds gives (inside a tie: accepting part of it). False
    accepts plus true accepts rise strictly along the curve from 0 to 2, so the crossing with 1 exists once.

    >>> eer(np.array([0.9, 0.6, 0.7, 0.1]), np.array([True, True, False, False]))
    0.5
    """
    far, tar, _ = roc(scores, same)
    along = far + tar
    after = int(np.searchsorted(along, 1.0))
    part = (1.0 - along[after - 1]) / (along[after] - along[after - 1])
    return float(far[after - 1] + part * (far[after] - far[after - 1]))


def tar_at_far(scores: Floats, same: NDArray[np.bool_], fars: Iterable[float]) -> dict[float, Rate]:
    """Return the highest true accept rate whose false accept rate is at most each of `fars`; no interpolation.

    A false accept rate below 1 / impostor pairs is not resolved (no threshold realises it but "no false accept seen"):
    its value is {"omitted": reason}.

    >>> tar_at_far(np.array([0.9, 0.6, 0.7, 0.1]), np.array([True, True, False, False]), [0.5, 0.01])
    {0.5: 1.0, 0.01: {'omitted': 'FAR 0.01 needs at least 100 impostor pairs, there are 2'}}
    """
    _, true, false = _counts(scores, same)
    impostors = int(false[-1])
    out: dict[float, Rate] = {}
    for far in fars:
        checks.fraction(far=far)
        allowed = math.floor(far * impostors + 1e-9)  # 0.29 * 100 is 28.999...
        if allowed < 1:
            needed = math.ceil(1 / far - 1e-9)
            out[far] = {"omitted": f"FAR {far:g} needs at least {needed} impostor pairs, there are {impostors}"}
        else:
            out[far] = float(true[np.searchsorted(false, allowed, side="right") - 1] / true[-1])
    return out


def _counts(
    scores: Floats, same: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct scores, falling, and the true and false accepts at each, with a leading 0 for none."""
    _check(scores, same)
    if same.all() or not same.any():
        raise checks.UserError(f"Expected pairs of both kinds, got {int(same.sum())} same of {len(same)} pairs.")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(_last_of_ties(ordered))
    true = np.concatenate([[0], np.cumsum(same[order])[ends]])
    return ordered[ends].astype(np.float64), true, np.concatenate([[0], ends + 1 - true[1:]])


def _last_of_ties(ordered: Floats) -> NDArray[np.bool_]:
    return np.append(ordered[1:] != ordered[:-1], True)


def _check(scores: Floats, same: NDArray[np.bool_], **others: NDArray[Any]) -> None:
    checks.same_shape((len(scores),), scores=scores.shape, same=same.shape, **{k: v.shape for k, v in others.items()})
    if len(scores) == 0 or same.dtype != np.bool_:
        raise checks.UserError(f"Expected at least one pair and same of type bool, got {len(scores)} and {same.dtype}.")
    if not np.isfinite(scores).all():
        raise checks.UserError("Expected finite scores; the model may have diverged: lower train.lr.")
