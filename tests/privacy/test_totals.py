"""Local releases at one delta: against the convolution of their losses, and filters against what they must bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fedveil.privacy import gaussian, statements, totals
from fedveil.privacy.accounting import filters
from fedveil.privacy.events import Gaussian, LocalRelease, NonPrivate, Release, Repeated
from fedveil.privacy.ledger import Row
from fedveil.privacy.totals import Deltas

PURE, SMALL = LocalRelease("laplace", 3.0), LocalRelease("laplace", 0.5)


def normal(mu, delta=1e-5, releases=1):
    return LocalRelease("gaussian", mu, releases, delta)


def delta_by_quadrature(epsilon, mus, pure):
    """The hockey-stick divergence of the worst pair: Gaussians at their distances, and a loss of +-pure by a coin."""
    mu = math.sqrt(sum(one**2 for one in mus))
    x = np.linspace(-12, 12 + mu, 400_001)
    step, total = x[1] - x[0], 0.0
    for sign, weight in ((1, 1 / (1 + math.exp(-pure))), (-1, 1 / (1 + math.exp(pure)))):
        present = weight * stats.norm.pdf(x, mu)
        absent = weight * math.exp(-sign * pure) * stats.norm.pdf(x)
        total += np.maximum(present - math.exp(epsilon) * absent, 0).sum() * step
    return total


@pytest.mark.parametrize(("mus", "pure"), [((1.0, 0.5), 0.0), ((0.3,) * 9, 0.0), ((1.0,), 3.0), ((0.7, 0.7), 0.5)])
def test_a_total_is_never_below_the_true_divergence(mus, pure):
    releases = [*(normal(mu) for mu in mus), *([LocalRelease("laplace", pure)] if pure else [])]
    for delta in (1e-3, 1e-5):
        epsilon = statements.local_epsilon([(one, 1) for one in releases], delta)
        assert delta_by_quadrature(epsilon, mus, pure) <= delta * (1 + 1e-3)
        if not pure:
            assert delta_by_quadrature(epsilon * 0.999, mus, pure) > delta


def test_counts_and_releases_multiply_and_deltas_of_the_parts_do_not_matter():
    nine = statements.local_epsilon([(normal(0.4, releases=3), 3)], 1e-6)
    assert nine == pytest.approx(gaussian.epsilon_of(1.2, 1e-6))
    mixed = statements.local_epsilon([(normal(0.6, delta=1e-2), 1), (normal(0.8, delta=1e-9), 1)], 1e-6)
    assert mixed == pytest.approx(gaussian.epsilon_of(1.0, 1e-6))
    assert statements.local_epsilon([], 1e-6) == 0


@pytest.mark.parametrize("limit", [2.0, 12.0, 60.0])
def test_a_filter_is_never_below_the_total_nor_falls(limit):
    releases = [normal(0.5), PURE, normal(0.2), SMALL, normal(1.0)]
    before = 0.0
    for count in range(1, len(releases) + 1):
        found = filters.filtered_local(releases[:count], limit, 1e-5)
        assert found >= before
        before = found
    # Kinds that compose exactly are filtered exactly.
    for kind in ("laplace", "gaussian"):
        alone = [one for one in releases if one.mechanism == kind]
        assert filters.filtered_local(alone, limit, 1e-5) == statements.local_epsilon([(one, 1) for one in alone], 1e-5)


def test_a_mixed_filter_holds_against_an_adversary_who_chooses_by_the_loss_so_far():
    """Pure where the Gaussian was lucky, Gaussian again where it was not: sums of both conversions prove nothing."""
    first, delta = normal(1.0), 1e-2
    limit = 8.0
    options = [LocalRelease("laplace", value) for value in np.linspace(0.1, 8, 80)]
    options += [normal(value) for value in np.linspace(0.1, 4, 80)]
    allowed = [one for one in options if filters.filtered_local([first, one], limit, delta) <= limit]
    pure = max((one.diameter for one in allowed if one.mechanism == "laplace"), default=0.0)
    square = max((one.diameter for one in allowed if one.mechanism == "gaussian"), default=0.0)
    loss = np.linspace(-6, 8, 4001)
    weight = stats.norm.pdf(loss, 0.5, 1.0) * (loss[1] - loss[0])
    beyond_pure = np.where(loss + pure > limit, 1 - np.exp(np.minimum(limit - loss - pure, 0)), 0)
    after = gaussian_tail(limit - loss, square)
    assert float((weight * np.maximum(beyond_pure, after)).sum()) <= delta


def gaussian_tail(epsilon, mu):
    """delta at each epsilon, of either sign, of a Gaussian release."""
    if mu == 0:
        return np.maximum(0.0, 1 - np.exp(epsilon))
    return stats.norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)


def test_owners_totals_stand_at_the_owners_delta_and_say_what_they_assume():
    rows = [Row(run, "set", "spent", normal(0.5, delta=1e-3), mechanism=run) for run in "ab"]
    for delta in (1e-5, 1e-8):
        (image,) = totals.of_rows(rows, Deltas(image=delta))
        assert (image.delta, image.epsilon) == (delta, pytest.approx(gaussian.epsilon_of(math.sqrt(0.5), delta)))
        assert any("chosen after seeing" in text for text in image.assumptions)
    (pure,) = totals.of_rows([Row(run, "set", "spent", PURE, mechanism=run) for run in "ab"])
    assert (pure.epsilon, pure.delta) == (6.0, 0.0)
    assert not any("chosen after seeing" in text for text in pure.assumptions)  # sums of pure losses always hold
    with_none = totals.of_rows([*rows, Row("c", "set", "spent", NonPrivate("image", "all", "none"))])
    assert [one.epsilon is None for one in with_none] == [False, True]


def test_the_order_of_rows_changes_no_total():
    rows = [Row("a", "s", "spent", PURE, mechanism="m"), Row("b", "s", "spent", normal(1.0), mechanism="n"),
            Row("c", "s", "spent", SMALL, mechanism="o")]  # fmt: skip
    found = {totals.of_rows(order)[0].epsilon for order in itertools.permutations(rows)}
    assert len(found) == 1


def test_a_mixed_total_has_a_delta_and_a_pure_one_none():
    rows = [Row("a", "s", "spent", PURE, mechanism="m"), Row("b", "s", "spent", normal(1.0), mechanism="n")]
    for order in (rows, rows[::-1]):
        (image,) = totals.of_rows(order, Deltas(image=1e-6))
        assert image.delta == 1e-6
        assert delta_by_quadrature(image.epsilon, (1.0,), 3.0) <= 1e-6 * (1 + 1e-3)
    (pure,) = totals.of_rows(rows[:1], Deltas(image=1e-6))
    assert pure.delta == 0


# What a client-level total is about, where other runs released models without it


def schedule(run, noise=8.0, note=""):
    release = Release("client", "zero-out", totals.VIEW, Repeated(Gaussian(noise), 4))
    return [Row(run, "set", "reserved", release, note), Row(run, "set", "spent", PURE, note, mechanism="m")]


@pytest.mark.parametrize("status", ["spent", "reused"])
@pytest.mark.parametrize("event", [PURE, NonPrivate("image", "all", "none")])
def test_a_run_without_client_level_noise_leaves_no_claim_about_every_model(status, event):
    bare = Row("bare", "set", status, event, mechanism="m" if event is PURE else "")
    alone = [one for one in totals.of_rows(schedule("a")) if one.unit == "client"]
    assert [(one.epsilon is not None, one.view) for one in alone] == [(True, totals.SCHEDULED)]
    for rows in ([bare, *schedule("a")], [*schedule("a"), bare]):
        client = [one for one in totals.of_rows(rows) if one.unit == "client"]
        assert [one.epsilon for one in client] == [alone[0].epsilon, None]
        assert "every" not in client[0].view or client[0].view == totals.SCHEDULED
        assert client[1].view == totals.VIEW
        assert "1 run released" in client[1].mechanism


def test_fixed_noise_at_client_level_is_no_noise_for_the_total():
    rows = [*schedule("a"), *schedule("fixed", note="NOT PRIVATE: fixed noise (privacy.test_seed)")]
    client = [one for one in totals.of_rows(rows) if one.unit == "client"]
    assert [one.epsilon is None for one in client] == [False, True]


def test_a_gallery_releases_no_model_and_without_schedules_nothing_is_said_of_clients():
    gallery = Row("g", "set", "spent", NonPrivate("image", "the gallery", "none"), "gallery")
    client = [one for one in totals.of_rows([*schedule("a"), gallery]) if one.unit == "client"]
    assert len(client) == 1
    assert not [one for one in totals.of_rows([gallery, Row("b", "set", "spent", PURE)]) if one.unit == "client"]


def test_totals_say_what_they_assume_of_starts_and_a_known_start_voids_what_is_said_of_models():
    """Owners are not told where a backbone starts, so their ledger cannot know."""
    found = totals.of_rows(schedule("a"))
    assert {one.unit for one in found} == {"image", "client"}
    assert all(any("started from a model" in text for text in one.assumptions) for one in found)
    known = totals.of_rows([*schedule("a"), Row("a", "set", "spent", NonPrivate("image", totals.STARTED, "warm"))])
    assert {one.epsilon for one in known} == {None}
