"""Banded noise over rounds: turns, the law of what is released, restarts and their price, test seeds, phases."""

from __future__ import annotations

import collections
import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil import checks
from fedveil.configuration.schema import Cohort
from fedveil.federation import claims, groups
from fedveil.federation.federation import Federation
from fedveil.federation.groups import Groups
from fedveil.privacy import banded, events
from fedveil.privacy.accounting import filters
from fedveil.privacy.accounting.pld import LIVE_GRID, PldAccountant
from fedveil.privacy.ledger import Ledger
from fedveil.randomness import SecretStream
from fedveil.records import Update, model_sha256
from fedveil_strategies import client_level, cohorts, private, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg

TENSORS = {"w": np.zeros((4, 3), np.float32)}
WORDS = ["protection=none", "train.clients=42", "train.cohort.rate=0.2", "train.rounds=10", "privacy.client.clip=0.5",
         "privacy.client.bands=4", "privacy.client.epsilon=6", "privacy.client.delta=1e-5"]  # fmt: skip
TABLE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "dp-reference.csv"


def opened(folder, *words, name="run"):
    federation = Federation.of([*WORDS, *words])
    stage = federation.stages[0]
    train = federation.settings.train
    plan = rounds.Plan(stage.last, federation.registry, train.cohort, federation.settings.seed, ("w",), tolerated=None)
    ledger = Ledger(folder / f"{name}.sqlite")
    return federation, plan, client_level.ClientLevel(federation, plan, ledger, name), ledger


def transport(number, cohort, tensors):
    rng = np.random.default_rng(number)
    return [Update(client, {"w": rng.normal(size=(4, 3)).astype(np.float32)}) for client in cohort]


def run(plan, level, start=None, asked=transport):
    state = start or rounds.State(0, TENSORS, {})
    return rounds.run(plan, state, asked, FedAvg(), [], level.draw, level.combine, level.proceed)


def claimed(federation, ledger, name="run"):
    found = claims.of_run(federation, ledger.rows(name), LIVE_GRID).statements
    return next(one for one in found if one.unit == "client")


# --- turns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cohort", [Cohort("poisson", rate=0.2), Cohort("fixed", size=7)])
def test_a_clients_rounds_are_bands_apart_and_as_many_come_as_before(cohort):
    turns, clients, last = Groups(4), 42, 4000
    registry = [f"c{place}" for place in range(clients)]
    came = np.zeros((last, clients), bool)
    for number in range(1, last + 1):
        words = SecretStream(number.to_bytes(32, "big")).words
        came[number - 1, cohorts.draw_group(cohort, registry, words, turns, number).places] = True
    for place in range(clients):
        joined = np.flatnonzero(came[:, place])
        assert np.diff(joined).min() >= 4
        assert set(joined % 4) == {place % 4}, "the turn that its owner expects"
    share = 0.2 if cohort.kind == "poisson" else 7 / 42
    assert came.mean() == pytest.approx(share, abs=0.01)
    assert came.mean(0) == pytest.approx(np.full(clients, share), abs=0.03)


def test_the_coin_the_event_and_the_reservation_have_the_rate_within_the_group():
    federation = Federation.of(WORDS)
    assert federation.release_of(3).event == events.PoissonSampled(0.8, events.Gaussian(noise(federation)))
    assert federation.whole_schedule.event == events.Repeated(federation.release_of(1).event, 3)
    assert dict(federation.release_of(6).detail)["group"] == 1
    assert federation.groups.cohort(federation.settings.train.cohort).rate == 0.8


def noise(federation):
    return federation.settings.privacy.client.noise_multiplier


@pytest.mark.skipif(not TABLE.exists(), reason="the table of published libraries' numbers is not on this machine")
@pytest.mark.parametrize("bands", [1, 10, 100])
def test_claims_are_those_of_published_accounting(bands):
    with TABLE.open(newline="") as file:
        rows = {row["case"].split()[0]: row for row in csv.DictReader(file) if row["mechanism"].startswith("bandmf")}
    expected = float(rows[{1: "J03", 10: "J04", 100: "J05"}[bands]]["epsilon"])
    words = ["train.clients=10000", "train.cohort.rate=0.01", "train.rounds=1000", f"privacy.client.bands={bands}"]
    base = ["protection=none", "privacy.client.delta=1e-5"]
    federation = Federation.of([*base, *words, "privacy.client.noise_multiplier=1"])
    booked = collections.Counter(federation.release_of(number) for number in range(1, 1001))
    found = claims.client_epsilon(federation, booked.items(), LIVE_GRID)
    assert found == pytest.approx(expected, rel=5e-3)
    assert found == PldAccountant("zero-out", "client").compose(federation.whole_schedule).upper(1e-5)
    planned = Federation.of([*base, *words, f"privacy.client.epsilon={expected}"])
    assert noise(planned) == pytest.approx(1.0, rel=5e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.cohort.rate=0.3"], "lower the bands to at most 3"),
        (["privacy.client.quantile=0.5"], "one clipping norm in all rounds"),
        (["privacy.noise=grid"], "on no grid"),
        (["train.clients=3"], "more groups than there are clients"),
        (["privacy.client.bands=0"], "privacy.client.bands=0"),
    ],
)
def test_bands_that_no_proof_covers_are_refused(words, message):
    with pytest.raises(checks.UserError, match=message):
        Federation.of([*WORDS, *words])


def fixed_words(size):
    kept = [word for word in WORDS if not word.startswith("train.cohort.rate")]
    return [*kept, "train.cohort.kind=fixed", f"train.cohort.size={size}"]


def test_fixed_cohorts_are_drawn_in_the_group_and_not_amplified():
    federation = Federation.of(fixed_words(10))
    inner = events.FixedSize(10, 11, events.Gaussian(noise(federation)), stateless=False)
    assert federation.whole_schedule.event == events.Repeated(inner, 3)
    bound = PldAccountant("replace-one", "client").compose(events.Repeated(events.Gaussian(noise(federation)), 3))
    assert bound.upper(1e-5) == pytest.approx(6.0, rel=1e-3)
    with pytest.raises(checks.UserError, match="leaves 10 clients in a group"):
        Federation.of(fixed_words(11))


def test_a_bad_configuration_is_refused_by_owners_too():
    """A coordinator may send what `planned` would refuse."""
    settings = Federation.of(WORDS).settings
    louder = dataclasses.replace(settings.train, cohort=Cohort("poisson", rate=0.5))
    with pytest.raises(checks.UserError, match="lower the bands"):
        Federation(dataclasses.replace(settings, train=louder))


# --- what is released -------------------------------------------------------------------------------------------------


def recorded(monkeypatch):
    """The independent rows that were drawn, in order."""
    whole, rows = private.noise.gaussian, []

    def watching(stream, sigma):
        row = whole(stream, sigma)
        rows.append(row.clone())
        return row

    monkeypatch.setattr(private.noise, "gaussian", watching)
    return rows


def released(plan, level, last=None, start=None):
    """The noise in each round's sum, clients sending nothing."""
    state, found = start or rounds.State(0, TENSORS, {}), []
    for number in range(state.round + 1, (last or plan.rounds) + 1):
        combined = level.combine(number, [], state)
        found.append(torch.from_numpy(combined.mean["w"].ravel()) * level.mechanism.expected)
        state = rounds.State(number, state.tensors, {})
    return torch.stack(found).numpy()


def test_rounds_release_their_sums_and_the_strategys_noise(tmp_path, monkeypatch):
    rows = recorded(monkeypatch)
    federation, plan, level, ledger = opened(tmp_path)
    found = released(plan, level)
    matrix = banded.strategy(10, 4).matrix()
    np.testing.assert_allclose(found, np.linalg.inv(matrix) @ torch.stack(rows).numpy(), atol=1e-12)
    sigma = noise(federation) * 0.5
    assert float(torch.stack(rows).std()) == pytest.approx(sigma, rel=0.25)
    assert len(ledger.rows("run")) == 10


def test_every_row_is_on_disk_before_its_noise(tmp_path, monkeypatch):
    _, plan, level, ledger = opened(tmp_path)
    whole, seen = private.noise.gaussian, []

    def watching(stream, sigma):
        seen.append(len(Ledger(ledger.path).rows("run")))
        return whole(stream, sigma)

    monkeypatch.setattr(private.noise, "gaussian", watching)
    run(plan, level)
    assert seen == [*range(1, 11)]


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_begins_another_stream_and_pays_nothing_for_it(tmp_path, monkeypatch):
    federation, plan, level, ledger = opened(tmp_path)
    whole = claims.planned(federation, federation.planned_event, LIVE_GRID).statements[0].epsilon
    released(plan, level, last=6)
    rows = recorded(monkeypatch)
    _, plan, again, _ = opened(tmp_path)
    found = released(plan, again, start=rounds.State(6, TENSORS, {}))
    fresh = np.linalg.inv(banded.strategy(4, 4).matrix()) @ torch.stack(rows).numpy()
    np.testing.assert_allclose(found, fresh, atol=1e-12)
    assert claimed(federation, ledger).epsilon == whole <= 6.0


def test_an_interrupted_round_is_paid_twice_by_its_group(tmp_path):
    federation, plan, level, ledger = opened(tmp_path)
    level._spend(1)
    level._spend(2)  # booked, and interrupted before its checkpoint
    _, plan, again, _ = opened(tmp_path)
    end = run(plan, again, rounds.State(1, TENSORS, {}))
    turns = collections.Counter(groups.of_release(row.event) for row in ledger.rows("run"))
    # Group 1 has rounds 2, 2 and 6, so its round 10 would be a fourth; the owners have reserved three for everybody.
    assert (end.round, turns) == (9, {0: 3, 1: 3, 2: 2, 3: 2})
    one = events.PoissonSampled(0.8, events.Gaussian(noise(federation)))
    expected = PldAccountant("zero-out", "client").compose(one, 3).upper(1e-5)
    assert claimed(federation, ledger).epsilon == pytest.approx(expected, rel=1e-9)
    counted = collections.Counter(row.event for row in ledger.rows("run"))
    assert claims.client_epsilon(federation, counted.items(), LIVE_GRID) == pytest.approx(expected, rel=1e-9)
    assert expected <= 6.0


def test_without_a_target_the_reservation_stops_a_group_that_paid_twice(tmp_path):
    words = ["privacy.client.epsilon=none", "privacy.client.noise_multiplier=2"]
    _, plan, level, _ = opened(tmp_path, *words)
    level._spend(1)
    _, plan, again, _ = opened(tmp_path, *words)
    assert run(plan, again).round == 8  # round 9 would be group 0's fourth


def test_what_one_client_pays_is_the_largest_groups_count():
    def row(group, noise=1.0):
        inner = events.PoissonSampled(0.5, events.Gaussian(noise))
        return events.Release("client", "zero-out", "", inner, (("group", group),))

    bills = groups.paid_by_one([(row(0), 3), (row(1), 2), (row(2), 3), (row(0, 2.0), 1)])
    assert sorted(sum(count for _, count in bill) for bill in bills) == [2, 3, 4]
    plain = events.Release("client", "zero-out", "", events.Gaussian(1.0))
    assert groups.paid_by_one([(plain, 5)]) == [((plain, 5),)]
    assert [sum(n for _, n in bill) for bill in groups.paid_by_one([(plain, 5), (row(1), 2)])] == [7]


def test_a_fixed_seed_repeats_the_noise_of_earlier_rounds(tmp_path):
    fixed = "privacy.test_seed=7"
    _, plan, level, _ = opened(tmp_path, fixed, name="whole")
    whole = run(plan, level)
    for stop in (1, 5, 9):
        name = f"cut{stop}"
        _, plan, level, _ = opened(tmp_path, fixed, name=name)
        part = rounds.Plan(stop, plan.registry, plan.cohort, plan.seed, plan.allowed, None)
        half = run(part, level)
        level._spend(stop + 1)  # and interrupted
        _, plan, again, ledger = opened(tmp_path, fixed, name=name)
        end = run(plan, again, rounds.State(stop, half.tensors, half.optimiser, half.memory))
        assert model_sha256(end.tensors) == model_sha256(whole.tensors)
        assert len(ledger.rows(name)) == 10


def test_the_correlation_begins_anew_with_a_stage(tmp_path, monkeypatch):
    rows = recorded(monkeypatch)
    words = [word for word in WORDS if not word.startswith("protection")]
    federation = Federation.of([*words, "protection=duetface", "protection.client_rounds=3"])
    first, last = federation.stages
    assert (first.last, last.last) == (3, 13)
    train, ledger = federation.settings.train, Ledger(tmp_path / "run.sqlite")
    plan = rounds.Plan(3, federation.registry, train.cohort, 1, ("w",), tolerated=None)
    level = client_level.ClientLevel(federation, plan, ledger, "run")
    found = [released(plan, level)]
    level.enter(rounds.Plan(13, federation.registry, train.cohort, 1, ("w",), tolerated=None))
    found.append(released(plan, level, last=13, start=rounds.State(3, TENSORS, {})))
    drawn = torch.stack(rows).numpy()
    for part, some in ((found[0], drawn[:3]), (found[1], drawn[3:])):
        matrix = banded.strategy(len(some), 4).matrix()
        np.testing.assert_allclose(part, np.linalg.inv(matrix) @ some, atol=1e-12)
    counted = collections.Counter(row.event for row in ledger.rows("run"))
    assert max(counted.values()) == 4 == federation.whole_schedule.event.count


# --- clients that share pictures --------------------------------------------------------------------------------------


def test_two_clients_in_neighbouring_groups_are_covered_by_the_price_of_two():
    """Their columns share rows: moments of the exact law against those of the event, by drawing coins."""
    rate, sigma, order = 0.3, 3.0, 4
    matrix = banded.strategy(9, 3).matrix()
    columns = matrix[:, [0, 1, 3, 4, 6, 7]]  # of groups 0 and 1, both pushing along one direction
    coins = np.array(np.meshgrid(*[[0, 1]] * 6)).reshape(6, -1)
    chance = np.prod(np.where(coins == 1, rate, 1 - rate), axis=0)
    gram = columns.T @ columns / sigma**2
    # E_Q (P/Q)^4 of a mixture of Gaussians: all tuples of coins, exp of the sum of their inner products.
    inner = np.exp(coins.T @ gram @ coins)
    weighted = chance[:, None] * inner * chance
    pairs = (chance[:, None] * chance).ravel()
    shifts = (coins[:, :, None] + coins[:, None, :]).reshape(6, -1)
    own = np.log(inner).ravel()
    log = own[:, None] + own[None] + shifts.T @ gram @ shifts
    moment = float(pairs @ np.exp(log) @ pairs)
    assert weighted.sum() > 1
    exact = np.log(moment) / (order - 1)
    release = events.Release("client", "zero-out", "", events.Repeated(
        events.PoissonSampled(rate, events.Gaussian(sigma)), 3), (("bands", 3),))  # fmt: skip
    event = filters.of_group(release, 2).event
    assert event == events.Repeated(events.PoissonSampled(rate, events.Gaussian(sigma / np.sqrt(2))), 6)

    def moments(one, count):
        """The same moment of one sampled Gaussian, by the binomial formula, composed."""
        q, z = one.rate, one.event.noise_multiplier
        k = np.arange(order + 1)
        ways = np.array([math.comb(order, int(one)) for one in k])
        terms = ways * (1 - q) ** (order - k) * q**k * np.exp(k * (k - 1) / (2 * z * z))
        return count * np.log(terms.sum()) / (order - 1)

    assert exact <= moments(event.event, 6)
    alone = events.PoissonSampled(rate, events.Gaussian(sigma))
    assert exact > moments(alone, 3), "what one client pays is not enough"
