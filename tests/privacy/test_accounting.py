"""Accountants against numerical integration, brute-force convolution and closed forms; one contract for all of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

from fedveil.checks import UserError
from fedveil.privacy import events, gaussian
from fedveil.privacy.accounting import _moments, restore
from fedveil.privacy.accounting._pairs import FixedReplaced, Nodes, Poisson, attained
from fedveil.privacy.accounting.base import Accountant, UnsupportedEvent
from fedveil.privacy.accounting.pld import PldAccountant
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import (
    Composed,
    Event,
    FixedSize,
    Gaussian,
    Laplace,
    LocalRelease,
    NonPrivate,
    PoissonSampled,
    Repeated,
    Unit,
)

Density = Callable[[NDArray[np.float64]], NDArray[np.float64]]
ACCOUNTANTS: list[type[Accountant]] = [PldAccountant, RdpAccountant]


@dataclasses.dataclass(frozen=True)
class Unknown:
    """A kind of release that no accountant has heard of."""

    noise_multiplier: float = 1.0


# ---- oracles, by another road: hockey-stick divergences of densities, and brute-force sums over a fine mesh ----


def mixture(rate: float, sigma: float, shift: float = 1.0) -> Density:
    def density(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (1 - rate) * stats.norm.pdf(x, 0, sigma) + rate * stats.norm.pdf(x, shift, sigma)

    return density


def on_a_mesh(p: Density, q: Density, sigma: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = np.linspace(-2 - 9 * sigma, 2 + 9 * sigma, 60_001)
    return p(x) * (x[1] - x[0]), q(x) * (x[1] - x[0])


def delta_by_quadrature(p: Density, q: Density, epsilon: float, sigma: float) -> float:
    """The definition: integral of (p - e^epsilon q)_+."""
    upper, lower = on_a_mesh(p, q, sigma)
    return float(np.maximum(upper - math.exp(epsilon) * lower, 0.0).sum())


def epsilon_by_quadrature(p: Density, q: Density, delta: float, sigma: float) -> float:
    upper, lower = on_a_mesh(p, q, sigma)
    return solve(lambda epsilon: float(np.maximum(upper - math.exp(epsilon) * lower, 0.0).sum()) - delta)


def solve(excess: Callable[[float], float]) -> float:
    return float(optimize.brentq(excess, 0.0, 40.0, xtol=1e-7))


def two_releases_by_force(first: tuple[Density, Density], second: tuple[Density, Density], delta: float) -> float:
    """Epsilon of two independent releases: the double integral over both outputs, no loss distribution anywhere."""
    x = np.linspace(-8.0, 9.0, 800)
    width = x[1] - x[0]
    p = np.outer(first[0](x), second[0](x)) * width**2
    q = np.outer(first[1](x), second[1](x)) * width**2
    return solve(lambda epsilon: float(np.maximum(p - math.exp(epsilon) * q, 0.0).sum()) - delta)


@pytest.mark.parametrize(("rate", "sigma", "delta"), [(0.01, 1.0, 1e-5), (0.2, 0.7, 1e-4), (0.5, 2.0, 1e-6)])
def test_one_sampled_gaussian_is_the_worse_of_two_integrals(rate: float, sigma: float, delta: float) -> None:
    present, absent = mixture(rate, sigma), mixture(0.0, sigma)
    truth = max(
        epsilon_by_quadrature(present, absent, delta, sigma),
        epsilon_by_quadrature(absent, present, delta, sigma) if delta < rate / 2 else 0.0,
    )
    found = PldAccountant().compose(PoissonSampled(rate, Gaussian(sigma))).epsilon(delta)
    assert found.upper == pytest.approx(truth, abs=1e-3)
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower - 1e-6 <= truth <= found.upper + 1e-6
    assert RdpAccountant().compose(PoissonSampled(rate, Gaussian(sigma))).upper(delta) >= truth


@pytest.mark.parametrize(("rate", "sigma", "delta"), [(0.01, 1.0, 1e-5), (0.3, 1.5, 1e-4)])
def test_replacing_a_sampled_unit_is_the_integral_over_opposite_shifts(rate: float, sigma: float, delta: float) -> None:
    truth = epsilon_by_quadrature(mixture(rate, sigma), mixture(rate, sigma, -1.0), delta, sigma)
    found = PldAccountant("replace-one").compose(PoissonSampled(rate, Gaussian(sigma))).epsilon(delta)
    assert found.upper == pytest.approx(truth, abs=1e-3)
    assert RdpAccountant("replace-one").compose(PoissonSampled(rate, Gaussian(sigma))).upper(delta) >= truth


@pytest.mark.parametrize(("first", "second"), [((0.3, 1.0), (0.3, 1.0)), ((0.1, 0.8), (0.5, 1.2))])
def test_two_sampled_gaussians_against_the_double_integral(
    first: tuple[float, float], second: tuple[float, float]
) -> None:
    pairs = [(mixture(*one), mixture(0.0, one[1])) for one in (first, second)]
    delta = 1e-4
    truth = max(
        two_releases_by_force(pairs[0], pairs[1], delta),
        two_releases_by_force((pairs[0][1], pairs[0][0]), (pairs[1][1], pairs[1][0]), delta),
    )
    spent = PldAccountant()
    for rate, sigma in (first, second):
        spent = spent.compose(PoissonSampled(rate, Gaussian(sigma)))
    assert spent.upper(delta) == pytest.approx(truth, abs=1e-3)


def test_laplace_against_the_exact_binomial_like_sum() -> None:
    """Loss of one Laplace release, convolved on its own fine mesh by repeated np.convolve."""
    budget, count, delta, mesh = 0.3, 6, 1e-3, 1e-4
    half = round(budget / mesh)
    points = np.arange(-half, half + 1) * mesh  # loss = budget * (1 - 2 x) for x in [0, 1], atoms at both ends
    mass = np.exp(-(budget - points) / 2) / 4 * mesh
    mass[[0, -1]] /= 2
    mass[0] += math.exp(-budget) / 2
    mass[-1] += 0.5
    assert mass.sum() == pytest.approx(1.0, abs=1e-6)
    total = mass
    for _ in range(count - 1):
        total = np.convolve(total, mass)
    losses = np.arange(-count * half, count * half + 1) * mesh
    truth = optimize.brentq(lambda e: total @ np.maximum(-np.expm1(e - losses), 0.0) - delta, 0.0, 2.0)
    found = PldAccountant().compose(Laplace(1 / budget), count).epsilon(delta)
    assert found.upper == pytest.approx(truth, abs=2e-3)


@given(noises=st.lists(st.floats(0.5, 50.0), min_size=1, max_size=6), log_delta=st.floats(-20, -2))
@settings(max_examples=30, deadline=None)
def test_unsampled_gaussians_are_exactly_their_closed_form(noises: list[float], log_delta: float) -> None:
    delta = math.exp(log_delta)
    spent = PldAccountant()
    for noise in noises:
        spent = spent.compose(Gaussian(noise))
    exact = gaussian.epsilon_of(math.sqrt(sum(noise**-2 for noise in noises)), delta)
    assert spent.upper(delta) == pytest.approx(exact, rel=1e-9)
    assert spent.epsilon(delta).lower == pytest.approx(exact, rel=1e-9)


def test_many_tiny_losses_follow_the_central_limit() -> None:
    """37,044 uneven Laplace releases far below the grid: the refined grid must not inflate them."""
    budgets = 8.0 / 196 * np.exp(-np.arange(0, 189, 9) / 40) / np.exp(-np.arange(0, 189, 9) / 40).sum()
    planned = Composed(tuple(Repeated(Laplace(1 / budget), 1764) for budget in budgets.tolist()))
    # variance of one Laplace loss: 2 rho for small budgets, rho = eps + e^-eps - 1
    variance = sum(1764 * 2 * (b + math.exp(-b) - 1) for b in budgets.tolist())
    upper = PldAccountant().compose(planned).upper(1e-5)
    assert upper == pytest.approx(gaussian.epsilon_of(math.sqrt(variance), 1e-5), rel=0.01)


# ---- fixed-size sampling: the single pair, and the traps ----


@pytest.mark.parametrize("epsilon", [-3.0, -0.2, -1e-3, 0.0, 1e-3, 0.5, 4.0])
def test_fixed_size_profile_is_the_worse_direction_on_either_side(epsilon: float) -> None:
    rate, sigma = 0.1, 0.8
    present, absent = mixture(rate, sigma), mixture(0.0, sigma)
    both = [delta_by_quadrature(*pair, epsilon, sigma) for pair in ((present, absent), (absent, present))]
    found = FixedReplaced(rate, sigma).profile(np.array([epsilon]))[0]
    assert found == pytest.approx(max(both), abs=1e-7)


def test_fixed_size_composed_is_between_the_attained_pair_and_renyi() -> None:
    event, delta = FixedSize(100, 1000, Gaussian(2.0), stateless=True), 1e-4
    spent = PldAccountant("replace-one").compose(event, 100)
    found = spent.epsilon(delta)
    one_sided = PldAccountant().compose(PoissonSampled(0.1, Gaussian(1.0)), 100)
    assert attained(FixedReplaced(0.1, 1.0)) == Poisson(0.1, 1.0)
    assert found.upper is not None
    assert found.upper > one_sided.upper(delta) * 1.05, "the larger direction alone is no upper bound"
    assert found.lower == pytest.approx(one_sided.epsilon(delta).lower)
    assert found.upper < RdpAccountant("replace-one").compose(event, 100).upper(delta)
    # Sensitivity is 2C: what the un-halved noise would print is far too small.
    unhalved = PldAccountant("replace-one").compose(FixedSize(100, 1000, Gaussian(4.0), stateless=True), 100)
    assert found.upper > 2 * unhalved.upper(delta)


def test_units_with_a_state_are_not_amplified() -> None:
    cohort = FixedSize(10, 1000, Gaussian(5.0))
    for kind in ACCOUNTANTS:
        everyone = kind("replace-one").compose(Gaussian(5.0), 10).upper(1e-5)
        assert kind("replace-one").compose(cohort, 10).upper(1e-5) == everyone
        assert everyone == pytest.approx(kind().compose(Gaussian(2.5), 10).upper(1e-5))


# ---- the contract of every accountant ----

EVENTS: list[tuple[str, Event]] = [
    ("zero-out", Gaussian(2.0)),
    ("replace-one", Gaussian(4.0)),
    ("zero-out", Laplace(3.0)),
    ("replace-one", Laplace(5.0)),
    ("zero-out", PoissonSampled(0.05, Gaussian(1.2))),
    ("replace-one", PoissonSampled(0.05, Gaussian(1.2))),
    ("zero-out", PoissonSampled(0.1, Laplace(2.0))),
    ("replace-one", FixedSize(5, 100, Gaussian(2.0), stateless=True)),
]
UNKNOWN: list[tuple[Event, object]] = [
    (Unknown(), Unknown()),  # type: ignore[arg-type]
    (PoissonSampled(0.1, Unknown()), Unknown()),  # type: ignore[arg-type]
    (PoissonSampled(0.1, PoissonSampled(0.1, Gaussian(1.0))), PoissonSampled(0.1, Gaussian(1.0))),
    (Composed((Gaussian(1.0), Repeated(FixedSize(2, 9, Gaussian(1.0)), 3))), FixedSize(2, 9, Gaussian(1.0))),
    (events.LocalRelease("laplace", 1.0), events.LocalRelease("laplace", 1.0)),
]


@pytest.mark.parametrize("kind", ACCOUNTANTS)
class TestContract:
    @pytest.mark.parametrize(("event", "part"), UNKNOWN, ids=str)
    def test_the_unknown_is_refused_by_name(self, kind: type[Accountant], event: Event, part: object) -> None:
        with pytest.raises(UnsupportedEvent) as refused:
            kind().compose(event)
        assert refused.value.event == part

    def test_nothing_costs_nothing(self, kind: type[Accountant]) -> None:
        free = kind().compose(events.PostProcessing("server optimiser")).compose(Composed(()))
        assert free == kind()
        assert (free.epsilon(1e-5).upper, free.epsilon(1e-5).lower) == (0.0, 0.0)

    def test_non_private_is_infinite_whatever_is_around_it(self, kind: type[Accountant]) -> None:
        leak = NonPrivate("client", "the update", "no noise")
        for event in (leak, PoissonSampled(0.1, leak), Repeated(Composed((Gaussian(5.0), leak)), 3)):
            spent = kind().compose(event).compose(Gaussian(1.0))
            assert spent.epsilon(0.1).upper is None
            assert spent.epsilon(0.1).lower is None
            assert spent.upper(0.1) == math.inf
            json.dumps(spent.to_dict(), allow_nan=False)

    @pytest.mark.parametrize(("relation", "event"), EVENTS, ids=str)
    def test_costs_grow_with_rounds_and_fall_with_delta(
        self, kind: type[Accountant], relation: events.Relation, event: Event
    ) -> None:
        spent = kind(relation)
        last = 0.0
        for count in (1, 1, 3, 20, 100):
            spent = spent.compose(event, count)
            found = spent.epsilon(1e-5)
            assert found.upper is not None
            assert found.lower is not None
            assert found.lower <= found.upper
            assert found.upper >= last
            last = found.upper
        assert last > 0
        assert spent.upper(1e-4) <= spent.upper(1e-5) <= spent.upper(1e-8)

    def test_costs_fall_with_noise_and_grow_with_the_rate(self, kind: type[Accountant]) -> None:
        def cost(rate: float, noise: float) -> float:
            return kind().compose(PoissonSampled(rate, Gaussian(noise)), 50).upper(1e-5)

        costs = [cost(0.05, noise) for noise in (0.6, 0.8, 1.2, 3.0)]
        assert costs == sorted(costs, reverse=True)
        costs = [cost(rate, 1.0) for rate in (0.001, 0.01, 0.1, 0.9, 1.0)]
        assert costs == sorted(costs)

    def test_replacing_costs_more_than_removing(self, kind: type[Accountant]) -> None:
        for event in (Gaussian(3.0), Laplace(3.0), PoissonSampled(0.1, Gaussian(1.5))):
            removed, replaced = (
                kind(relation).compose(event, 5).upper(1e-5) for relation in ("zero-out", "replace-one")
            )
            assert removed < replaced

    @given(data=st.data())
    @settings(max_examples=6, deadline=None)
    def test_order_and_grouping_do_not_matter_and_saving_is_exact(
        self, kind: type[Accountant], data: st.DataObject
    ) -> None:
        known = [Gaussian(6.0), PoissonSampled(0.1, Gaussian(3.0)), Laplace(4.0), PoissonSampled(0.3, Laplace(6.0))]
        calls = data.draw(st.lists(st.tuples(st.sampled_from(known), st.integers(1, 20)), min_size=1, max_size=5))
        shared = kind()
        once = shared
        for event, count in calls:
            once = once.compose(event, count)
        pieces = [event for event, count in calls for _ in range(count)]
        shuffled = kind().compose(Composed(tuple(data.draw(st.permutations(pieces)))))
        middle = kind()
        for i, (event, count) in enumerate(calls):
            middle = middle.compose(Repeated(Repeated(event, count), 1))
            if i == len(calls) // 2:
                middle = kind.from_dict(json.loads(json.dumps(middle.to_dict())))
        assert once == shuffled == middle
        restored = restore.from_dict(json.loads(json.dumps(once.to_dict())))
        assert restored == once
        assert restored.epsilon(1e-5) == once.epsilon(1e-5) == shuffled.epsilon(1e-5), "bit for bit"

    def test_large_costs_are_answered_from_both_sides(self, kind: type[Accountant]) -> None:
        found = kind().compose(PoissonSampled(0.5, Gaussian(0.2)), 1000).epsilon(1e-5)
        assert found.upper is not None
        assert found.lower is not None
        assert 1000 < found.lower < found.upper < 1.3 * found.lower

    def test_bad_requests_are_refused(self, kind: type[Accountant]) -> None:
        for delta in (0.0, 1.0, math.nan):
            with pytest.raises(UserError):
                kind().epsilon(delta)
        for count in (0, -1, 1.5):
            with pytest.raises(UserError):
                kind().compose(Gaussian(1.0), count)  # type: ignore[arg-type]
        with pytest.raises(UserError):
            kind("add-remove")  # type: ignore[arg-type]
        with pytest.raises(UserError):
            kind.from_dict({**kind().to_dict(), "kind": "other"})
        with pytest.raises(UserError):
            restore.from_dict({"kind": "other"})

    def test_units_and_relations_are_never_mixed(self, kind: type[Accountant]) -> None:
        client = events.Release("client", "zero-out", "the model", Gaussian(2.0))
        cohort = events.Release("client", "replace-one", "the model", FixedSize(5, 10, Gaussian(2.0)))
        plain = kind().compose(Gaussian(2.0)).upper(1e-5)
        assert kind().compose(client).upper(1e-5) == plain
        assert kind("replace-one").compose(client).upper(1e-5) == kind(unit="image").compose(client).upper(1e-5) > plain
        assert kind("replace-one").compose(client).compose(cohort).upper(1e-5) > plain
        with pytest.raises(UnsupportedEvent):
            kind().compose(cohort)
        with pytest.raises(UnsupportedEvent):
            kind().compose(dataclasses.replace(client, unit="image"))

    def test_local_releases_of_an_image(self, kind: type[Accountant]) -> None:
        spent = kind("replace-one", "image")
        noisy = spent.compose(events.LocalRelease("gaussian", 0.5, releases=4, delta=1e-5)).epsilon(1e-5)
        assert noisy.upper is not None
        assert gaussian.epsilon_of(1.0, 1e-5) <= noisy.upper * (1 + 1e-9)
        pure = spent.compose(events.LocalRelease("laplace", 0.5), 3).epsilon(1e-9)
        assert pure.upper == pytest.approx(1.5, abs=1e-2)
        assert pure.upper is not None
        assert pure.upper <= 1.5


def test_renyi_is_never_below_the_accountant_of_record() -> None:
    for relation, event in EVENTS:
        for count in (1, 30):
            tight = PldAccountant(relation).compose(event, count).upper(1e-6)  # type: ignore[arg-type]
            assert tight <= RdpAccountant(relation).compose(event, count).upper(1e-6)  # type: ignore[arg-type]


def test_renyi_divergences_are_the_binomial_sums() -> None:
    """Integer orders have a closed form (Mironov, Talwar and Zhang 2019), here with exact binomials."""
    from fedveil.privacy.accounting._moments import ORDERS, renyi

    for rate, sigma in ((0.01, 1.0), (0.3, 0.5), (0.05, 4.0)):
        found = renyi(Poisson(rate, sigma))
        for order in (2, 3, 6):
            terms = [
                math.comb(order, k) * (1 - rate) ** (order - k) * rate**k * math.exp((k * k - k) / (2 * sigma**2))
                for k in range(order + 1)
            ]
            exact = math.log(math.fsum(terms)) / (order - 1)
            # order is not one of ORDERS; log moments are convex in the order, so neighbours bracket it
            above = int(np.searchsorted(ORDERS, order))
            assert found[above - 1] <= exact * (1 + 1e-9)
            assert exact <= found[above] * (1 + 1e-9)
            assert found[above - 1] == pytest.approx(exact, rel=0.4)


def test_a_finer_grid_tightens_both_ends() -> None:
    event = PoissonSampled(0.05, Gaussian(1.0))
    rough, live = (PldAccountant(grid=grid).compose(event, 50).epsilon(1e-5) for grid in (1e-2, 1e-3))
    assert rough.lower is not None
    assert live.lower is not None
    assert live.upper is not None
    assert rough.upper is not None
    assert rough.lower < live.lower < live.upper < rough.upper


def test_composition_agrees_with_the_library_that_builds_the_pieces() -> None:
    from dp_accounting import dp_event
    from dp_accounting.pld import pld_privacy_accountant

    theirs = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-3)
    theirs.compose(dp_event.PoissonSampledDpEvent(0.02, dp_event.GaussianDpEvent(0.9)), 300)
    theirs.compose(dp_event.LaplaceDpEvent(10.0), 4)
    ours = PldAccountant().compose(PoissonSampled(0.02, Gaussian(0.9)), 300).compose(Laplace(10.0), 4)
    assert ours.upper(1e-5) == pytest.approx(theirs.get_epsilon(1e-5), abs=1e-6)
    assert ours.upper(1e-5) >= theirs.get_epsilon(1e-5) - 1e-9


def test_a_thousand_rounds_are_cheap_and_never_fall() -> None:
    """Well below 20 ms of processor a round; the test allows three times that for a busy machine."""
    import time

    event, spent, last = PoissonSampled(0.01, Gaussian(1.0)), PldAccountant(), 0.0
    spent.compose(event).epsilon(1e-5)  # builds the piece once
    started = time.process_time()
    rounds = 150
    for _ in range(rounds):
        spent = spent.compose(event)
        found = spent.epsilon(1e-5).upper
        assert found is not None
        assert found >= last
        last = found
    assert (time.process_time() - started) / rounds < 0.06


def laplace_by_force(rate: float, scale: float, releases: int, delta: float, *, present: bool) -> float:
    """Epsilon of sampled Laplace sums with the unit present or absent in the first world: meshed losses, convolved."""
    x = np.linspace(-14 * scale, 1 + 14 * scale, 2_000_001)
    absent = np.exp(-np.abs(x) / scale)
    mixed = (1 - rate) * absent + rate * np.exp(-np.abs(x - 1) / scale)
    mass, loss = (mixed, np.log(mixed / absent)) if present else (absent, np.log(absent / mixed))
    step = 1e-4
    places = np.round(loss / step).astype(int)
    one = np.bincount(places - places.min(), weights=mass / mass.sum())
    whole = np.ones(1)
    for _ in range(releases):
        whole = np.convolve(whole, one)
    losses = step * (np.arange(len(whole)) + releases * places.min())
    return solve(lambda epsilon: float((whole * -np.expm1(np.minimum(epsilon - losses, 0.0))).sum()) - delta)


def test_the_worse_direction_is_taken_where_it_is_the_one_without_the_unit() -> None:
    remove, add = (laplace_by_force(0.5, 10.0, 3, 0.01, present=present) for present in (True, False))
    assert add > 1.03 * remove  # or the test could not tell
    bound = PldAccountant(grid=1e-4).compose(PoissonSampled(0.5, Laplace(10.0)), 3).epsilon(0.01)
    assert bound.lower is not None
    assert bound.upper is not None
    assert bound.lower * 0.99 <= add <= bound.upper * 1.01
    assert bound.lower > 1.01 * remove


class Mirrored(Poisson):
    """A Poisson sample told the other way around."""

    def nodes(self, direction: int, reach: float = 1.0) -> Nodes:
        return super().nodes(1 - direction, reach)


def test_renyi_divergences_are_the_larger_of_both_directions_whichever_that_is() -> None:
    pair, mirrored = Poisson(0.1, 1.0), Mirrored(0.1, 1.0)
    np.testing.assert_array_equal(_moments.renyi(pair), _moments.renyi(mirrored))


@pytest.mark.parametrize("unit", ["client", "identity"])
@pytest.mark.parametrize("kind", ACCOUNTANTS)
def test_what_one_image_costs_is_no_price_for_a_client_or_a_person(kind: type[Accountant], unit: Unit) -> None:
    release = LocalRelease("laplace", 4.0)
    with pytest.raises(UnsupportedEvent, match=f"nothing for one {unit}"):
        kind("replace-one", unit).compose(release)
    assert kind("replace-one", "image").compose(release).upper(1e-9) == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("kind", [PldAccountant, RdpAccountant])
@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_a_coarser_unit_is_priced_as_replaced(kind: type[Accountant], rate: float) -> None:
    """A person without one picture is another person: a clipped vector may turn round, and the sum moves by 2C."""
    steps = events.Repeated(events.PoissonSampled(rate, Gaussian(3.0)), 20)
    people = events.Release("identity", "zero-out", "updates", steps)
    own = kind("zero-out", "identity").compose(people).upper(1e-5)
    picture = kind("zero-out", "image").compose(people).upper(1e-5)
    assert picture == pytest.approx(kind("replace-one", "identity").compose(people).upper(1e-5))
    assert picture > 1.8 * own
