"""Verification metrics against scikit-learn and brute force, ties included."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from fedveil import checks
from fedveil.evaluation import verification as v

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.booleans(), st.integers(0, 3)), min_size=4, max_size=40)
"""Scores in few steps, so that ties are the rule."""


def arrays(pairs: list[tuple[int, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score, same, fold = (np.array(column) for column in zip(*pairs, strict=True))
    assume(same.any() and not same.all())
    return score / 4.0, same, fold


def right(threshold: float, score: np.ndarray, same: np.ndarray) -> int:
    return sum((s >= threshold) == bool(k) for s, k in zip(score, same, strict=True))


@given(PAIRS)
def test_roc_and_auc_equal_scikit_learn(pairs: list[tuple[int, bool, int]]) -> None:
    score, same, _ = arrays(pairs)
    far, tar, thresholds = v.roc(score, same)
    for mine, theirs in zip((far, tar, thresholds), roc_curve(same, score, drop_intermediate=False), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert v.auc(score, same) == pytest.approx(roc_auc_score(same, score), abs=1e-12)


@given(PAIRS)
def test_best_threshold_by_trying_all(pairs: list[tuple[int, bool, int]]) -> None:
    score, same, _ = arrays(pairs)
    candidates = [math.inf, *sorted(set(score.tolist()), reverse=True)]
    hits = [right(threshold, score, same) for threshold in candidates]
    assert v.best_threshold(score, same) == candidates[int(np.argmax(hits))]


@given(PAIRS)
def test_fold_accuracy_equals_scikit_learn_per_fold(pairs: list[tuple[int, bool, int]]) -> None:
    score, same, fold = arrays(pairs)
    names = np.unique(fold)
    assume(len(names) > 1)
    expected_thresholds, expected = [], []
    for name in names:
        train = fold != name
        if same[train].any() and not same[train].all():
            far, tar, thresholds = roc_curve(same[train], score[train], drop_intermediate=False)
            hits = np.round(tar * same[train].sum() + (1 - far) * (~same[train]).sum())
            threshold = thresholds[np.argmax(hits)]
        else:
            threshold = score[train].min() if same[train].all() else math.inf
        expected_thresholds.append(threshold)
        expected.append(right(threshold, score[~train], same[~train]) / (~train).sum())
    found = v.kfold_accuracy(score, same, fold)
    np.testing.assert_array_equal(found.thresholds, expected_thresholds)
    np.testing.assert_allclose(found.accuracies, expected, rtol=1e-14)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.sd == pytest.approx(np.std(expected, ddof=1))


@given(PAIRS)
def test_eer_by_bisection_over_random_decisions(pairs: list[tuple[int, bool, int]]) -> None:
    # Accept scores above t, and those equal to t with probability p: the error rates move continuously in (t, p).
    score, same, _ = arrays(pairs)
    levels = sorted(set(score.tolist()), reverse=True)

    def rates(position: float) -> tuple[float, float]:
        index, chance = min(int(position), len(levels) - 1), position - min(int(position), len(levels) - 1)
        accept = np.where(score > levels[index], 1.0, np.where(score == levels[index], chance, 0.0))
        return float(accept[~same].mean()), float(1 - accept[same].mean())

    low, high = 0.0, float(len(levels))
    for _ in range(60):
        middle = (low + high) / 2
        false_accept, false_reject = rates(middle)
        low, high = (middle, high) if false_accept < false_reject else (low, middle)
    assert v.eer(score, same) == pytest.approx(rates(high)[0], abs=1e-9)


@given(PAIRS, st.floats(0.01, 1.0))
def test_tar_at_far_by_trying_all(pairs: list[tuple[int, bool, int]], far: float) -> None:
    score, same, _ = arrays(pairs)
    impostors = int((~same).sum())
    (value,) = v.tar_at_far(score, same, [far]).values()
    if far * impostors < 1 - 1e-9:
        assert isinstance(value, dict)
        assert str(impostors) in value["omitted"]
    else:
        rates = [
            float((score[same] >= t).mean())
            for t in [math.inf, *score.tolist()]
            if (score[~same] >= t).sum() <= far * impostors + 1e-9
        ]
        assert value == pytest.approx(max(rates))


@pytest.mark.parametrize("allowed", [1, 29, 58, 100])
def test_far_that_counts_exactly_is_not_lost_to_rounding(allowed: int) -> None:
    score = np.concatenate([np.linspace(1, 0, 100), [1 - (allowed - 0.5) / 99]])
    same = np.concatenate([np.zeros(100, bool), [True]])
    assert v.tar_at_far(score, same, [allowed / 100]) == {allowed / 100: 1.0}


def test_perfect_and_worthless_and_reversed_scores() -> None:
    same = np.array([True] * 5 + [False] * 5)
    for score, area, error in ((same * 1.0, 1.0, 0.0), (np.zeros(10), 0.5, 0.5), (~same * 1.0, 0.0, 1.0)):
        assert (v.auc(score, same), v.eer(score, same)) == (area, error)
    assert v.kfold_accuracy(same * 1.0, same, np.arange(10) % 2).mean == 1.0
    assert v.best_threshold(~same * 1.0, same) in (0.0, math.inf)


def test_metrics_depend_on_order_of_scores_only() -> None:
    rng = np.random.default_rng(1)
    score, same, fold = rng.normal(size=300), rng.random(300) < 0.5, rng.integers(0, 10, 300)
    shuffled = rng.permutation(300)
    moved = np.tanh(score[shuffled])
    assert v.auc(moved, same[shuffled]) == v.auc(score, same)
    assert v.eer(moved, same[shuffled]) == v.eer(score, same)
    other = v.kfold_accuracy(moved, same[shuffled], fold[shuffled])
    np.testing.assert_array_equal(other.accuracies, v.kfold_accuracy(score, same, fold).accuracies)


def test_scores_are_cosines() -> None:
    rng = np.random.default_rng(1)
    left, right_ = rng.normal(size=(20, 8)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    left[3] = 0
    cosines = v.scores(left, right_)
    for i, (a, b) in enumerate(zip(left, right_, strict=True)):
        assert cosines[i] == pytest.approx(0 if i == 3 else a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


def test_held_fold() -> None:
    rng = np.random.default_rng(2)
    same = rng.random(80) < 0.5
    score = same + rng.normal(size=80)
    held = np.arange(80) < 20
    accuracy, threshold = v.held_accuracy(score[held], same[held], score[~held], same[~held])
    folds = v.kfold_accuracy(score, same, held.astype(int))
    assert (accuracy, threshold) == (folds.accuracies[1], folds.thresholds[1])


@given(st.lists(st.booleans(), min_size=4, max_size=60), st.integers(2, 12))
def test_sub_folds_are_even_runs_of_each_kind(answers: list[bool], count: int) -> None:
    same = np.array(answers)
    folds = v.sub_folds(same, count)
    for kind in (same, ~same):
        assert (np.diff(folds[kind]) >= 0).all()
        sizes = np.bincount(folds[kind], minlength=folds.max() + 1)
        assert sizes.max() - sizes.min() <= 1
    assert 1 <= len(np.unique(folds)) <= max(2, min(count, same.sum(), (~same).sum()))


@pytest.mark.parametrize(
    ("score", "same", "message"),
    [
        (np.array([]), np.array([], bool), "at least one pair"),
        (np.array([0.1, np.nan]), np.array([True, False]), "finite"),
        (np.array([0.1, 0.2]), np.array([True, True]), "both kinds"),
        (np.array([0.1, 0.2]), np.array([1, 0]), "bool"),
        (np.array([0.1, 0.2]), np.array([True]), "same of shape"),
    ],
)
def test_unusable_pairs_are_refused(score: np.ndarray, same: np.ndarray, message: str) -> None:
    with pytest.raises(checks.UserError, match=message):
        v.auc(score, same)


def test_single_fold_and_bad_far_are_refused() -> None:
    score, same = np.array([0.1, 0.2]), np.array([True, False])
    with pytest.raises(checks.UserError, match="folds"):
        v.kfold_accuracy(score, same, np.zeros(2, int))
    with pytest.raises(checks.UserError, match="far"):
        v.tar_at_far(score, same, [0.0])


def test_six_thousand_pairs_take_milliseconds() -> None:
    # The goal is 10 ms on a free core; the bound here leaves room for a busy machine.
    rng = np.random.default_rng(3)
    left, right_ = rng.normal(size=(2, 6000, 512)).astype(np.float32)
    same, folds = np.arange(6000) % 2 == 0, np.arange(6000) % 10

    def metrics() -> None:
        score = v.scores(left, right_)
        v.kfold_accuracy(score, same, folds)
        v.auc(score, same)
        v.tar_at_far(score, same, [0.1, 0.01, 0.001])

    metrics()
    seconds = []
    for _ in range(7):
        start = time.process_time()
        metrics()
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05
