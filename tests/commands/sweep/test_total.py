"""The owners' composed total: every draw once, whoever drew it first, and infinite where nothing protected."""

from __future__ import annotations

import math

import pytest

from fedveil.commands.sweep import total
from fedveil.privacy.events import LocalRelease, NonPrivate
from fedveil.privacy.ledger import Row

EIGHT, FIFTY = LocalRelease("laplace", 8.0), LocalRelease("laplace", 50.0)
GAUSS = LocalRelease("gaussian", 0.5, delta=1e-5)
BARE = NonPrivate("image", "everything", "no protection")


def rows(*entries: tuple[str, str, str, object]) -> list[Row]:
    return [Row(run, subject, status, event) for run, subject, status, event in entries]  # type: ignore[arg-type]


def one(found: list[total.Total]) -> total.Total:
    (only,) = found
    return only


def test_every_draw_adds_its_epsilon_and_reading_again_adds_nothing() -> None:
    ledger = rows(("a", "d", "spent", EIGHT), ("b", "d", "spent", FIFTY), ("c", "d", "reused", EIGHT))
    found = one(total.of_rows(ledger, {"a", "b", "c"}))
    assert (found.epsilon, found.delta, found.releases, found.unprotected) == (58.0, 0.0, 2, 0)


def test_equal_events_that_were_both_drawn_are_two_releases() -> None:
    ledger = rows(("a", "d", "spent", EIGHT), ("b", "d", "spent", EIGHT))
    assert one(total.of_rows(ledger, {"a", "b"})).epsilon == 16.0


def test_a_copy_drawn_before_the_sweep_counts_once_and_other_runs_do_not() -> None:
    before = rows(("old", "d", "spent", EIGHT), ("other", "d", "spent", FIFTY))
    ledger = before + rows(("a", "d", "reused", EIGHT), ("b", "d", "reused", EIGHT))
    assert one(total.of_rows(ledger, {"a", "b"})).epsilon == 8.0


def test_fresh_noise_pays_for_every_release() -> None:
    fresh = LocalRelease("laplace", 2.0, releases=5)
    assert one(total.of_rows(rows(("a", "d", "spent", fresh)), {"a"})).epsilon == 10.0


def test_gaussian_releases_compose_like_one_of_the_joint_distance() -> None:
    four = one(total.of_rows(rows(*((run, "d", "spent", GAUSS) for run in "abcd")), set("abcd")))
    joint = one(total.of_rows(rows(("a", "d", "spent", LocalRelease("gaussian", 1.0, delta=1e-5))), {"a"}))
    assert four.epsilon == pytest.approx(joint.epsilon)
    assert four.delta == 1e-5


def test_disjoint_data_sets_do_not_add_and_the_worst_is_named() -> None:
    ledger = rows(("a", "d1", "spent", EIGHT), ("a", "d2", "spent", FIFTY))
    found = one(total.worst(total.of_rows(ledger, {"a"})))
    assert (found.subject, found.epsilon) == ("d2", 50.0)


def test_a_run_without_protection_makes_the_total_infinite_and_says_what_the_rest_is() -> None:
    ledger = rows(("a", "d", "spent", EIGHT), ("b", "d", "spent", BARE))
    found = one(total.of_rows(ledger, {"a", "b"}))
    assert (found.epsilon, found.unprotected) == (8.0, 1)
    (said,) = total.sentences([found], all_public=False)
    assert "infinite: 1 run" in said
    assert "epsilon <= 8" in said
    assert total.to_dicts([found])[0]["epsilon"] is None


def test_fixed_noise_protects_nobody() -> None:
    ledger = [Row("a", "d", "spent", EIGHT, "NOT PRIVATE: fixed noise (privacy.test_seed)")]
    assert one(total.of_rows(ledger, {"a"})).unprotected == 1


def test_words_without_rows() -> None:
    assert "public benchmark" in total.sentences([], all_public=True)[0]
    assert "no release" in total.sentences([], all_public=False)[0]
    assert not math.isfinite(total.composed([(BARE, 1)])[0])
