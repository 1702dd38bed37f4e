"""Secret coins, events on disk before the noise is used, a budget that stops the run, interrupted rounds counted."""

import numpy as np
import pytest

from fedveil import checks
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy import events
from fedveil.privacy.accounting.pld import LIVE_GRID, PldAccountant
from fedveil.privacy.ledger import Ledger
from fedveil.records import Update, model_sha256
from fedveil_strategies import client_level, private, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg

TENSORS = {"w": np.zeros((4, 3), np.float32)}
WORDS = ["protection=none", "train.clients=40", "train.cohort.rate=0.25", "train.rounds=6", "privacy.client.clip=0.5"]
TARGET = ["privacy.client.epsilon=4", "privacy.client.delta=1e-5"]


def settings(*words):
    fixed = "train.cohort.kind=fixed" in words  # and then has no rate
    base = [word for word in WORDS if not (fixed and word.startswith("train.cohort.rate="))]
    return Federation.of([*base, *(words or TARGET)])


def opened(tmp_path, federation, name="run"):
    ids, train = federation.registry, federation.settings.train
    plan = rounds.Plan(train.rounds, ids, train.cohort, federation.settings.seed, ("w",), tolerated=0.999)
    ledger = Ledger(tmp_path / f"{name}.sqlite")
    return plan, client_level.ClientLevel(federation, plan, ledger, name), ledger


def claimed(federation, ledger, name="run"):
    """The client level's statement, as every door derives it."""
    found = claims.of_run(federation, ledger.rows(name), LIVE_GRID).statements
    return next(one for one in found if one.unit == "client")


def transport(number, cohort, tensors):
    rng = np.random.default_rng(number)
    return [Update(client, {"w": rng.normal(size=(4, 3)).astype(np.float32)}) for client in cohort]


def run(plan, level, start=None):
    state = start or rounds.State(0, TENSORS, {})
    return rounds.run(plan, state, transport, FedAvg(), [], level.draw, level.combine, level.proceed)


def check_write_ahead(tmp_path, monkeypatch):
    """When the noise is drawn, the round's event is in the ledger already."""
    plan, level, ledger = opened(tmp_path, settings())
    released = private.released
    seen = []

    def watching(*arguments, **named):
        seen.append(len(Ledger(ledger.path).rows("run")))
        return released(*arguments, **named)

    monkeypatch.setattr(private, "released", watching)
    run(plan, level)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_every_round_is_on_disk_before_its_noise(tmp_path, monkeypatch):
    check_write_ahead(tmp_path, monkeypatch)


@pytest.mark.parametrize("mutant", ["dropped", "late"])
def test_an_event_dropped_or_written_late_is_caught(tmp_path, monkeypatch, mutant):
    spend, combine = client_level.ClientLevel._spend, client_level.ClientLevel.combine
    monkeypatch.setattr(client_level.ClientLevel, "_spend", lambda self, number: None)
    if mutant == "late":

        def late(self, number, answers, state):
            combined = combine(self, number, answers, state)
            spend(self, number)
            return combined

        monkeypatch.setattr(client_level.ClientLevel, "combine", late)
    with pytest.raises(AssertionError):
        check_write_ahead(tmp_path, monkeypatch)


def test_claimed_epsilon_is_that_of_the_ledgers_rows(tmp_path):
    loaded = settings()
    plan, level, ledger = opened(tmp_path, loaded)
    run(plan, level)
    rows = ledger.rows("run")
    accountant = PldAccountant("zero-out", "client")
    for row in rows:
        accountant = accountant.compose(row.event)
    statement = claimed(loaded, ledger)
    assert statement.epsilon == accountant.upper(1e-5)
    assert statement.epsilon <= 4.0
    assert (statement.unit, statement.relation, statement.delta) == ("client", "zero-out", 1e-5)
    assert isinstance(rows[0].event.event, events.PoissonSampled)
    assert rows[0].event.event.rate == 0.25


def check_secret_coins(tmp_path):
    _, first, _ = opened(tmp_path, settings(), "a")
    _, second, _ = opened(tmp_path, settings(), "b")
    cohorts = [[tuple(level.draw(number)) for number in range(1, 30)] for level in (first, second)]
    assert cohorts[0] != cohorts[1]
    sizes = [len(cohort) for cohort in cohorts[0] + cohorts[1]]
    assert np.mean(sizes) == pytest.approx(10, abs=4 * np.sqrt(40 * 0.25 * 0.75 / len(sizes)))


def test_coins_do_not_come_from_the_public_seed(tmp_path):
    check_secret_coins(tmp_path)


def test_coins_from_the_public_seed_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(client_level.ClientLevel, "draw", lambda self, number: rounds.public(self._plan)(number))
    with pytest.raises(AssertionError):
        check_secret_coins(tmp_path)


def test_noise_differs_between_runs_and_repeats_under_a_test_seed(tmp_path):
    hashes = []
    for name in ("a", "b"):
        plan, level, _ = opened(tmp_path, settings(), name)
        hashes.append(model_sha256(run(plan, level).tensors))
    assert hashes[0] != hashes[1]
    fixed = settings(*TARGET, "privacy.test_seed=7")
    repeated = []
    for name in ("c", "d"):
        plan, level, ledger = opened(tmp_path, fixed, name)
        repeated.append(model_sha256(run(plan, level).tensors))
        assert all("NOT PRIVATE" in row.note for row in ledger.rows(name))
    assert repeated[0] == repeated[1]


def test_an_interrupted_round_is_a_new_counted_event(tmp_path):
    plan, level, ledger = opened(tmp_path, settings())
    level.combine(1, transport(1, level.draw(1), TENSORS), rounds.State(0, TENSORS, {}))
    before = claimed(settings(), ledger).epsilon
    plan, again, _ = opened(tmp_path, settings())
    assert claimed(settings(), ledger).epsilon == before > 0
    end = run(plan, again)
    assert len(ledger.rows("run")) == end.round + 1
    assert end.round == 5  # the sixth round would exceed what the interrupted one left
    assert claimed(settings(), ledger).epsilon <= 4.0


def test_infinite_epsilon_clips_without_a_guarantee(tmp_path):
    loaded = settings("privacy.client.epsilon=inf")
    plan, level, ledger = opened(tmp_path, loaded)
    run(plan, level)
    assert claimed(loaded, ledger).epsilon is None
    assert all(isinstance(row.event, events.NonPrivate) for row in ledger.rows("run"))
    assert "no guarantee" in level.lines(12)[0]


def test_fixed_cohorts_are_replace_one_and_not_amplified(tmp_path):
    poisson = settings().settings.privacy.client.noise_multiplier
    fixed = settings(*TARGET, "train.cohort.kind=fixed", "train.cohort.size=10")
    plan, level, ledger = opened(tmp_path, fixed)
    run(plan, level)
    assert claimed(fixed, ledger).relation == "replace-one"
    everyone = settings(*TARGET, "train.cohort.rate=1.0").settings.privacy.client.noise_multiplier
    assert fixed.settings.privacy.client.noise_multiplier == pytest.approx(2 * everyone, rel=1e-2)
    assert everyone > poisson


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["privacy.client.epsilon=4", "privacy.client.delta=none"], "privacy.client.delta is needed"),
        (["privacy.client.epsilon=4", "privacy.client.delta=0.5"], "privacy.client.delta=0.5"),
        (["privacy.client.epsilon=-1", "privacy.client.delta=1e-5"], "privacy.client.epsilon=-1"),
        ([*TARGET, "privacy.client.clip=none"], "privacy.client.clip is needed"),
    ],
)
def test_incomplete_budgets_are_refused(words, message):
    with pytest.raises(checks.UserError, match=message.replace(".", r"\.")):
        settings(*words)


def test_a_schedule_above_the_budget_refuses_to_start_when_asked(tmp_path):
    words = [*TARGET, "privacy.client.noise_multiplier=0.4"]
    stopping = settings(*words)
    plan, level, _ = opened(tmp_path, stopping)
    client_level.check_start(stopping)
    assert run(plan, level).round < 6
    refusing = settings(*words, "privacy.client.on_exhausted=refuse_to_start")
    with pytest.raises(checks.UserError, match="cost epsilon"):
        client_level.check_start(refusing)


def test_no_target_means_no_client_level_privacy():
    assert Federation.of(["protection=none", "privacy.client.epsilon=none"]).settings.privacy.client is None


def test_hopeless_noise_is_said_with_a_remedy(tmp_path):
    _, level, _ = opened(tmp_path, settings())
    assert any("Remedy" in line for line in level.lines(1_000_000))
    assert len(level.lines(2)) == 1


def test_an_interrupted_round_never_takes_more_rounds_than_owners_reserved(tmp_path):
    """Without a target nothing but the schedule stops a run, and owners have booked no more than that."""
    loaded = settings("privacy.client.noise_multiplier=1.5", "privacy.client.delta=1e-5")
    plan, level, ledger = opened(tmp_path, loaded)
    level._spend(1)  # booked, then interrupted before its checkpoint
    _, again, _ = opened(tmp_path, loaded)
    end = run(plan, again)
    assert len(ledger.rows("run")) == 6
    assert end.round == 5
