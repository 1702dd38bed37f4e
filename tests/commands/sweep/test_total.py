"""The owners' composed total: every draw once, whoever drew it first, and infinite where nothing protected."""

from __future__ import annotations

import pytest

from fedveil.commands.sweep import total
from fedveil.privacy.events import Gaussian, LocalRelease, NonPrivate, Release
from fedveil.privacy.ledger import Row
from fedveil.privacy.totals import Deltas

EIGHT, FIFTY = LocalRelease("laplace", 8.0), LocalRelease("laplace", 50.0)
GAUSS = LocalRelease("gaussian", 0.5, delta=1e-5)
BARE = NonPrivate("image", "everything", "no protection")


def rows(*entries: tuple[str, ...]) -> list[Row]:
    """Rows of (run, data set, status, event, name of the kept mechanism)."""
    return [Row(*entry[:4], mechanism="".join(entry[4:])) for entry in entries]  # type: ignore[arg-type]


def of_rows(ledger: list[Row], runs: set[str]) -> list[total.Total]:
    return total.of_rows(ledger, runs, Deltas())


def one(found: list[total.Total]) -> total.Total:
    (only,) = found
    return only


def test_every_draw_adds_its_epsilon_and_reading_again_adds_nothing() -> None:
    ledger = rows(("a", "d", "spent", EIGHT, "m"), ("b", "d", "spent", FIFTY, "n"), ("c", "d", "reused", EIGHT, "m"))
    found = one(of_rows(ledger, {"a", "b", "c"}))
    assert (found.statement.epsilon, found.statement.delta, found.unprotected) == (58.0, 0.0, 0)
    assert "2 releases" in found.statement.mechanism


def test_equal_events_that_were_both_drawn_are_two_releases() -> None:
    ledger = rows(("a", "d", "spent", EIGHT), ("b", "d", "spent", EIGHT))
    assert one(of_rows(ledger, {"a", "b"})).statement.epsilon == 16.0


def test_a_copy_drawn_before_the_sweep_counts_once_and_other_runs_do_not() -> None:
    before = rows(("old", "d", "spent", EIGHT, "m"), ("other", "d", "spent", FIFTY, "n"))
    ledger = before + rows(("a", "d", "reused", EIGHT, "m"), ("b", "d", "reused", EIGHT, "m"))
    assert one(of_rows(ledger, {"a", "b"})).statement.epsilon == 8.0


def test_fresh_noise_pays_for_every_release() -> None:
    fresh = LocalRelease("laplace", 2.0, releases=5)
    assert one(of_rows(rows(("a", "d", "spent", fresh)), {"a"})).statement.epsilon == 10.0


def test_gaussian_releases_compose_like_one_of_the_joint_distance() -> None:
    four = one(of_rows(rows(*((run, "d", "spent", GAUSS) for run in "abcd")), set("abcd")))
    joint = one(of_rows(rows(("a", "d", "spent", LocalRelease("gaussian", 1.0, delta=1e-5))), {"a"}))
    assert four.statement.epsilon == pytest.approx(joint.statement.epsilon)
    assert four.statement.delta == 1e-5


def test_disjoint_data_sets_do_not_add_and_the_worst_is_named() -> None:
    ledger = rows(("a", "d1", "spent", EIGHT), ("a", "d2", "spent", FIFTY))
    found = one(total.worst(of_rows(ledger, {"a"})))
    assert (found.subject, found.statement.epsilon) == ("d2", 50.0)


def test_a_run_without_protection_makes_the_total_infinite_and_says_what_the_rest_is() -> None:
    ledger = rows(("a", "d", "spent", EIGHT), ("b", "d", "spent", BARE))
    found = one(of_rows(ledger, {"a", "b"}))
    assert found.formal is not None
    assert (found.statement.epsilon, found.formal.epsilon, found.unprotected) == (None, 8.0, 1)
    (said,) = total.sentences([found], all_public=False, fixed=True)
    assert "infinite: 1 run" in said
    assert "epsilon = 8 at delta = 0 (replace-one)" in said
    assert total.to_dicts([found])[0]["statement"]["epsilon"] is None  # type: ignore[index]


@pytest.mark.parametrize(("event", "named"), [(EIGHT, False), (GAUSS, True)])
def test_a_total_that_adaptivity_would_break_says_what_it_assumes(event: LocalRelease, named: bool) -> None:
    found = of_rows(rows(("a", "d", "spent", event), ("b", "d", "spent", event)), {"a", "b"})
    (before,) = total.sentences(found, all_public=False, fixed=True)
    (after,) = total.sentences(found, all_public=False, fixed=False)
    assert ("the grid was fixed before its first run" in before) == named
    assert ("if no value was added after seeing a result" in after) == named


def test_fixed_noise_protects_nobody() -> None:
    ledger = [Row("a", "d", "spent", EIGHT, "NOT PRIVATE: fixed noise (privacy.test_seed)")]
    assert one(of_rows(ledger, {"a"})).unprotected == 1


def clients_total(ledger: list[Row], **more: object) -> total.Total:
    found = total.of_rows(ledger, {row.run_id for row in ledger}, Deltas(), **more)  # type: ignore[arg-type]
    return next(one for one in total.worst(found) if one.statement.unit == "client")


SCHEDULE = Release("client", "zero-out", "every released global model", Gaussian(4.0))


def test_a_grid_over_client_level_noise_and_none_has_no_client_level_total() -> None:
    """privacy.client.epsilon=none,4: the models of the first cell hide nobody."""
    ledger = rows(("a", "d/1/*", "spent", EIGHT, "m"), ("b", "d/1/*", "reserved", SCHEDULE),
                  ("b", "d/1/*", "reused", EIGHT, "m"))  # fmt: skip
    found = clients_total(ledger)
    assert (found.statement.epsilon, found.unprotected) == (None, 1)
    (said,) = total.sentences([found], all_public=False, fixed=True)
    assert "infinite: 1 run" in said
    assert "that an accepted client-level schedule released" in said
    assert clients_total(ledger[1:]).statement.epsilon is not None


def test_a_start_that_nobody_declared_public_voids_what_a_sweep_says_of_models() -> None:
    ledger = rows(("b", "d/1/*", "reserved", SCHEDULE), ("b", "d/1/*", "spent", EIGHT, "m"))
    warm = NonPrivate("image", "the released model", "the backbone starts from elsewhere")
    found = total.worst(total.of_rows(ledger, {"b"}, Deltas(), starts={"b": warm}))
    assert {one.statement.epsilon for one in found} == {None}
    assert {one.statement.unit for one in found} == {"client", "image"}


def test_words_without_rows() -> None:
    assert "public benchmark" in total.sentences([], all_public=True, fixed=True)[0]
    assert "no release" in total.sentences([], all_public=False, fixed=True)[0]
