"""Filters and totals over runs: bounds by other roads, order of rows, and who counts for whom."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fedveil.privacy import totals
from fedveil.privacy.accounting import _moments, filters
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import FixedSize, Gaussian, LocalRelease, NonPrivate, PoissonSampled, Release, Repeated
from fedveil.privacy.ledger import Row
from fedveil.privacy.spending import Past, Picture

POISSON = Repeated(PoissonSampled(0.1, Gaussian(1.5)), 50)


def schedule(event, relation="zero-out"):
    return Release("client", relation, "every released global model", event, (("delta", 1e-5),))


def test_equal_schedules_fit_as_often_as_google_dp_accounting_says():
    accounting = pytest.importorskip("dp_accounting")
    orders = [1 + value for value in np.geomspace(0.3, 40, 80)]
    limit = 6.0
    event = accounting.PoissonSampledDpEvent(0.1, accounting.GaussianDpEvent(1.5))
    one = accounting.rdp.RdpAccountant(orders).compose(event, 50)

    def theirs(count):
        return accounting.rdp.compute_epsilon(orders, count * one._rdp, 1e-5)[0]

    fits = max(count for count in range(1, 40) if theirs(count) <= limit)
    assert theirs(fits) < limit * 0.995 < limit * 1.005 < theirs(fits + 1)  # not on the edge
    runs = [schedule(POISSON)] * (fits + 1)
    assert filters.filtered_epsilon(runs[:-1], limit, 1e-5) <= limit < filters.filtered_epsilon(runs, limit, 1e-5)
    assert fits > 3


def test_the_filter_never_finds_less_than_the_best_order_and_never_falls():
    runs = [schedule(POISSON), schedule(Gaussian(3.0)), schedule(Repeated(PoissonSampled(0.01, Gaussian(0.8)), 200))]
    before = 0.0
    for count in range(1, 4):
        accountant = RdpAccountant("zero-out", "client")
        for event in runs[:count]:
            accountant = accountant.compose(event)
        found = filters.filtered_epsilon(runs[:count], 8.0, 1e-5)
        assert found >= before
        if count > 1:
            assert found >= accountant.upper(1e-5) * (1 - 1e-12)
        before = found


def test_the_order_is_the_first_schedules_and_not_the_one_that_turned_out_best():
    sigmas, limit, delta = [8.0, 0.6], 30.0, 1e-5
    orders = [float(order) for order in _moments.ORDERS]

    def added(order):  # Canonne, Kamath and Steinke, proposition 12
        return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)

    fits = [(limit - added(order)) / (order / (2 * sigmas[0] ** 2)) for order in orders]
    fixed = orders[fits.index(max(fits))]
    naive = sum(fixed / (2 * sigma**2) for sigma in sigmas) + added(fixed)
    best = min(sum(order / (2 * sigma**2) for sigma in sigmas) + added(order) for order in orders)
    assert naive > 1.02 * best  # or the test could not tell
    found = filters.filtered_epsilon([schedule(Gaussian(sigma)) for sigma in sigmas], limit, delta)
    assert found == pytest.approx(naive, rel=1e-9)


def test_behind_the_first_schedule_the_order_of_rows_is_irrelevant():
    rest = [schedule(Gaussian(3.0)), schedule(POISSON), schedule(Gaussian(9.0))]
    values = {
        filters.filtered_epsilon([schedule(POISSON), *order], 8.0, 1e-5) for order in itertools.permutations(rest)
    }
    assert len(values) == 1


def test_relations_are_composed_at_replace_one_and_no_guarantee_is_infinite():
    fixed = schedule(FixedSize(5, 50, Gaussian(8.0)), "replace-one")
    plain = schedule(Gaussian(8.0))
    both = filters.filtered_epsilon([plain, fixed], 50.0, 1e-5)
    alone = filters.filtered_epsilon([schedule(Gaussian(8.0), "replace-one")] * 2, 50.0, 1e-5)
    assert both == pytest.approx(alone, rel=0.02)
    assert filters.filtered_epsilon([plain, NonPrivate("client", "models", "no noise")], 8.0, 1e-5) == math.inf
    assert filters.filtered_epsilon([], 8.0, 1e-5) == 0


def test_a_group_costs_no_less_than_what_its_exact_mixture_does():
    """Two clients, each in the sample by its own coin: hockey-stick divergences of the true mixture by quadrature."""
    rate, noise, grid = 0.3, 2.0, np.linspace(-30, 34, 200_001)

    def density(parts):
        return sum(
            weight * np.exp(-((grid - mean) ** 2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
            for weight, mean in parts
        )

    nothing = density([(1.0, 0.0)])
    truth = density([((1 - rate) ** 2, 0.0), (2 * rate * (1 - rate), 1.0), (rate**2, 2.0)])
    group = filters.of_group(PoissonSampled(rate, Gaussian(noise)), 2)
    bound = density([(1 - group.rate, 0.0), (group.rate, 1.0 / group.event.noise_multiplier * noise)])
    step = grid[1] - grid[0]
    for epsilon in (0.0, 0.1, 0.3, 0.7, 1.0):
        for swapped in (False, True):
            exact, bounded = (
                np.maximum((nothing - math.exp(epsilon) * one) if swapped else (one - math.exp(epsilon) * nothing), 0)
                for one in (truth, bound)
            )
            assert exact.sum() * step <= bounded.sum() * step + 1e-9


LAPLACE = LocalRelease("laplace", 3.0)


def epsilon(rows):
    return Picture(tuple(rows)).epsilon()


def test_totals_do_not_depend_on_the_order_of_rows():
    rows = [
        Row("a", "set", "spent", LAPLACE, mechanism="m"),
        Row("b", "set", "spent", LAPLACE, mechanism="n"),
        Row("c", "set", "spent", LAPLACE, mechanism="m"),
        Row("d", "set", "reserved", schedule(Gaussian(5.0))),
        Row("e", "set", "reserved", schedule(POISSON)),
    ]
    seen = {
        tuple((claim.unit, claim.epsilon) for claim in totals.of_rows(order))
        for order in (rows, rows[::-1], rows[2:] + rows[:2], rows[3:] + rows[:3])
    }
    assert len(seen) == 1
    assert dict(next(iter(seen)))["image"] == 6.0


def test_fixed_noise_and_no_protection_leave_no_finite_total():
    assert epsilon([Row("a", "s", "spent", LAPLACE, "NOT PRIVATE: fixed")]) == math.inf
    assert epsilon([Row("a", "s", "spent", NonPrivate("image", "all", "none"))]) == math.inf
    assert epsilon([Row("a", "s", "reserved", schedule(POISSON)), Row("a", "s", "reused", LAPLACE)]) == 0


def test_a_schedule_with_fixed_noise_has_no_finite_client_total():
    fixed = Row("a", "s", "reserved", schedule(POISSON), "NOT PRIVATE: fixed noise (privacy.test_seed)")
    history = Past([fixed, Row("b", "s", "reserved", schedule(POISSON))], ()).history("s", {})
    assert any(isinstance(event, NonPrivate) for event in history.client_events())
    assert filters.filtered_epsilon(tuple(history.client_events()), 8.0, 1e-5) == math.inf
    plain = Past([Row("b", "s", "reserved", schedule(POISSON))], ()).history("s", {})
    assert filters.filtered_epsilon(tuple(plain.client_events()), 1e9, 1e-5) < math.inf


def sizes(rows, subject, holders, recorded):
    """How many data sets a neighbour changes at once, by run."""
    history = Past(rows, recorded).history(subject, holders)
    return {row.run_id: size for row, size in history.schedules}


def test_clients_of_one_deal_that_hold_the_same_picture_are_a_group():
    """One row stands for everybody; who changes the picture changes both of its holders."""
    rows = [Row("r1", "pictures-f0/01/*", "reserved", schedule(POISSON))]
    one, two = "pictures-f0/01/c1", "pictures-f0/01/c2"
    assert sizes(rows, one, {b"p": frozenset({one})}, {one, two}) == {"r1": 1}
    assert sizes(rows, one, {b"p": frozenset({one, two})}, {one, two}) == {"r1": 2}
    apart = [Row("r1", name, "reserved", schedule(POISSON)) for name in (one, two)]
    assert sizes(apart, one, {b"p": frozenset({one, two})}, {one, two}) == {"r1": 2}
    assert sizes(rows, "pictures-f0", {b"p": frozenset({one, two})}, {one, two}) == {"r1": 2}
    apart = {b"p": frozenset({one}), b"q": frozenset({two})}
    assert sizes(rows, "pictures-f0", apart, {one, two}) == {"r1": 1}


def test_in_another_deal_those_who_are_known_to_hold_a_picture_are_a_group():
    mine, theirs = "pictures-f0/01/c1", ["pictures-f0/02/c1", "pictures-f0/02/c2"]
    rows = [Row("r1", "pictures-f0/01/*", "reserved", schedule(POISSON)),
            Row("r2", "pictures-f0/02/*", "reserved", schedule(Gaussian(5.0)))]  # fmt: skip
    holders = {b"p": frozenset({mine, theirs[0]}), b"q": frozenset({mine, theirs[1]})}
    assert sizes(rows, mine, holders, {mine, *theirs}) == {"r1": 1, "r2": 2}
    assert sizes(rows, mine, {b"p": frozenset({mine})}, {mine}) == {"r1": 1, "r2": 1}  # at one of them, perhaps
    unknown = Row("r3", "pictures-f0/02/c3", "reserved", schedule(POISSON))
    assert sizes([*rows, unknown], mine, holders, {mine, *theirs}) == {"r1": 1, "r2": 2, "r3": 1}


def test_a_deal_without_known_pictures_counts_by_its_heaviest_client():
    heavy = LocalRelease("laplace", 7.0)
    rows = [
        Row("r1", "folder-f0/01/c1", "spent", LAPLACE),
        Row("r1", "folder-f0/01/c2", "spent", heavy),
        Row("r2", "folder-f0/02/c1", "spent", LAPLACE),
    ]
    assert Past(rows, ()).history("folder-f0/02/c1", {}).worst_picture().epsilon() == 10.0
    known = {b"p": frozenset({"folder-f0/01/c1", "folder-f0/02/c1"})}
    recorded = ("folder-f0/01/c1", "folder-f0/01/c2", "folder-f0/02/c1")
    assert Past(rows, recorded).history("folder-f0/02/c1", known).worst_picture().epsilon() == 6.0
    assert Past(rows, ()).history("folder-f0", {}).worst_picture().epsilon() == 10.0
