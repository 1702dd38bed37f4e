"""Thresholds, ranks and intervals against loops."""

from __future__ import annotations

import numpy as np
import pytest

from fedveil import checks
from fedveil.evaluation import identification


def test_a_threshold_lets_at_most_its_share_of_impostors_through() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=4321)
    for far in (0.5, 0.1, 0.01):
        tau = identification.threshold_at(scores, far)
        assert (scores > tau).mean() <= far < (scores >= tau).mean() + 1 / scores.size


def test_a_rate_that_cannot_be_resolved_is_refused() -> None:
    with pytest.raises(checks.UserError, match=r"0\.01 needs 1000 pairs of different people, there are 999"):
        identification.threshold_at(np.zeros(999), 0.01)


def test_ranks_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(2)
    probes, gallery = rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    for person, rank in enumerate(identification.ranks(probes, gallery).tolist()):
        scores = [probe @ gallery[other] / np.linalg.norm(gallery[other])
                  for other, probe in enumerate([probes[person]] * 30)]  # fmt: skip
        assert rank == sum(score >= scores[person] for score in scores)


def test_what_recognises_nobody_is_ranked_last() -> None:
    nothing = np.ones((20, 4))
    assert identification.ranks(nothing, nothing).tolist() == [20] * 20
    assert identification.ranks(np.zeros((20, 4)), np.eye(20, 4)).tolist() == [20] * 20
    assert identification.ranks(np.full((20, 4), np.nan), np.eye(20, 4)).tolist() == [20] * 20


def test_impostors_are_all_pairs_of_different_people() -> None:
    rng = np.random.default_rng(3)
    first, second = (identification.unit(rng.normal(size=(6, 3))) for _ in range(2))
    wanted = [float(first[i] @ second[j]) for i in range(6) for j in range(6) if i != j]
    assert identification.impostor_scores(first, second).tolist() == pytest.approx(wanted)


def test_an_interval_over_people_covers_the_mean() -> None:
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        share = identification.mean_over_people(rng.random(60) < 0.3, rng, 300)
        covered += share.low <= 0.3 <= share.high
    assert 0.88 <= covered / 200 <= 0.99
