"""Intervals over identities: weights by hand, agreement with theory, and the effect of shared people."""

from __future__ import annotations

import numpy as np
import pytest

from fedveil import checks
from fedveil.evaluation import intervals


def test_weights_count_drawn_copies() -> None:
    left, right = np.array([0, 0, 1, 7]), np.array([0, 1, 7, 7])
    weights = np.concatenate(list(intervals.identity_weights(left, right, np.random.default_rng(1), 250)))
    assert weights.shape == (250, 4)
    # The two same pairs tell how often 0 and 7 were drawn; three draws in all tell it of 1; products follow.
    zero, seven = weights[:, 0], weights[:, 3]
    one = 3 - zero - seven
    np.testing.assert_array_equal(weights[:, 1], zero * one)
    np.testing.assert_array_equal(weights[:, 2], one * seven)
    assert zero.mean() == pytest.approx(1.0, abs=0.2)


def test_one_pair_per_person_gives_the_binomial_interval() -> None:
    rng = np.random.default_rng(2)
    people = np.arange(800)
    hits = (rng.random(800) < 0.8).astype(float)
    statistic = intervals.weighted_accuracy(hits, np.ones(800, bool))
    low, high = intervals.bootstrap_interval(statistic, people, people, rng, repeats=2000)
    half = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 800)
    assert low == pytest.approx(hits.mean() - half, abs=0.004)
    assert high == pytest.approx(hits.mean() + half, abs=0.004)


def test_pairs_of_one_person_count_as_one_observation() -> None:
    # 40 people with 25 pairs each that are all right or all wrong: the width is that of 40 observations.
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(40), 25)
    hits = np.repeat((np.arange(40) < 30).astype(float), 25)
    statistic = intervals.weighted_accuracy(hits, np.ones(1000, bool))
    low, high = intervals.bootstrap_interval(statistic, people, people, rng, repeats=2000)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.75 * 0.25 / 40), rel=0.1)


def test_coverage_with_people_who_are_easy_or_hard() -> None:
    # Every person has a hidden difficulty; the truth is the population mean. The interval must cover it at least
    # about as often as it says.
    rng = np.random.default_rng(4)
    first, second = np.triu_indices(24, 1)
    chosen = rng.permutation(len(first))[:120]
    left = np.concatenate([np.repeat(np.arange(24), 5), first[chosen]])
    right = np.concatenate([np.repeat(np.arange(24), 5), second[chosen]])
    same = left == right
    covered = 0
    for _ in range(200):
        ease = rng.uniform(0.5, 1.0, 24)  # mean 0.75
        hits = (rng.random(len(left)) < (ease[left] + ease[right]) / 2).astype(float)
        statistic = intervals.weighted_accuracy(hits, same)
        low, high = intervals.bootstrap_interval(statistic, left, right, rng, repeats=300)
        covered += low <= 0.75 <= high
    assert covered >= 0.9 * 200


def test_share_of_same_pairs_is_held() -> None:
    same = np.array([True, False, False, False])
    statistic = intervals.weighted_accuracy(np.array([1.0, 0.0, 0.0, 0.0]), same)
    weights = np.array([[1.0, 1, 1, 1], [9, 1, 0, 0], [0, 1, 1, 1]])
    np.testing.assert_allclose(statistic(weights), [0.25, 0.25, np.nan])


def test_interval_repeats_and_bad_arguments_are_refused() -> None:
    people = np.arange(30)
    statistic = intervals.weighted_accuracy((people % 3 > 0).astype(float), np.ones(30, bool))

    def interval(repeats: int = 150, level: float = 0.95) -> tuple[float, float]:
        return intervals.bootstrap_interval(statistic, people, people, np.random.default_rng(5), repeats, level)

    assert interval() == interval()
    assert interval(level=0.5)[0] > interval()[0]
    with pytest.raises(checks.UserError, match="repeats"):
        interval(repeats=0)
    with pytest.raises(checks.UserError, match="level"):
        interval(level=1.5)
