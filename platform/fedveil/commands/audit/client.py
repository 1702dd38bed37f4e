"""The attacks on a client-level claim: canary clients in a replay of all rounds, and extreme updates in one round."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

from fedveil import config, engine
from fedveil.commands.audit import training
from fedveil.commands.audit.report import LEVEL, Bound
from fedveil.configuration.schema import ClientBudget, Cohort
from fedveil.federation import claims, synthetic
from fedveil.federation.federation import Federation
from fedveil.privacy import audit, gaussian
from fedveil.privacy.accounting.pld import FINAL_GRID, PldAccountant
from fedveil.privacy.audit import Counts, Scores
from fedveil.privacy.events import Gaussian
from fedveil.privacy.ledger import Row

REPLAY = "fedveil_strategies.canaries:replay"
ONE_RELEASE = "fedveil_strategies.canaries:one_release"


def attack(
    federation: Federation, budget: ClientBudget, rows: Sequence[Row], canaries: int, draws: int, seed: int,
    level: float = LEVEL,
) -> list[Bound]:  # fmt: skip
    """Return the bounds on what a client-level run claims, and on one of its noisy sums.

    Args:
        federation: of a planned configuration.
        budget: its client-level block.
        rows: of the run's ledger, whose claim is audited; without noisy rounds in it the planned schedule's is.
        canaries: how many canary clients the replay has.
        draws: noisy sums of extreme legal updates on each side.
        seed: of the public audit coins.
        level: of one bound.
    """
    delta = budget.delta or 0.0
    booked = training.booked(rows, "client")
    # The replay has one stage of canary rounds: as many as all stages of the run have, or as were booked.
    rounds, relation = len(booked) or federation.total_rounds, federation.relation
    bare = config.load(["protection=none"]).protection
    train = dataclasses.replace(federation.settings.train, rounds=rounds)
    privacy = dataclasses.replace(federation.settings.privacy, image=None, identity=None)
    replayed = Federation(dataclasses.replace(federation.settings, train=train, protection=bare, privacy=privacy))
    begun = time.perf_counter()
    sums: Scores = engine.load(ONE_RELEASE)(replayed, draws)
    accountant = PldAccountant(relation, "client")
    one_sum = accountant.compose(Gaussian(budget.noise_multiplier or 0.0)).upper(delta)
    mu = _mu(sums, level)
    values = [
        ("Clopper-Pearson", _clopper_pearson(sums, delta, level), sums),
        ("trade-off curve", _closed(mu, delta), sums),
    ]
    attacked, taken = "one noisy sum without sampling, extreme updates", time.perf_counter() - begun
    begun = time.perf_counter()
    seen = engine.load(REPLAY)(replayed, canaries, seed)
    learnt = () if booked else synthetic.learnt(federation.settings)  # else rows of the run say it
    told = rows if booked else [*(Row("", "run", "spent", event) for event in learnt), *seen.booked]
    claim = claims.claimed("client", claims.of_run(federation, told, FINAL_GRID).statements)
    single = _bounds(attacked, claim, one_sum, delta, values, taken)
    whole = claims.client_epsilon(federation, [(row.event, 1) for row in booked or seen.booked], FINAL_GRID)
    values = [
        ("Clopper-Pearson", _clopper_pearson(seen.run, delta, level), seen.run),
        ("one run of many canaries", audit.one_run_of(seen.run, delta, level), seen.run),
    ]
    turns = federation.groups
    if _sampled(turns.cohort(train.cohort)):
        values += [
            ("trade-off curve of canaries in a release",
             _priced(replayed, budget, _mu(seen.releases, level)), seen.releases),
            ("trade-off curve of the single noisy sums", _priced(replayed, budget, mu), sums),
        ]  # fmt: skip
    else:  # all rounds together have a Gaussian curve, which needs no accountant
        together = (("of the whole run", _mu(seen.run, level), seen.run),
                    ("of the single noisy sums", mu * math.sqrt(turns.rounds_of_one(rounds)), sums))  # fmt: skip
        values += [(f"trade-off curve {name}", _closed(found, delta), scores) for name, found, scores in together]
    what = f"{rounds} rounds with {canaries} canary clients"
    return [*_bounds(what, claim, whole, delta, values, time.perf_counter() - begun), *single]


def _bounds(
    what: str,
    claim: tuple[float | None, str],
    proven: float,
    delta: float,
    values: list[tuple[str, float, Scores]],
    seconds: float,
) -> list[Bound]:
    return [
        Bound(what, "client", *claim, proven, delta, value, method, scores.present.size + scores.absent.size, seconds)
        for method, value, scores in values
    ]


def _clopper_pearson(scores: Scores, delta: float, level: float) -> float:
    def bound(counts: Counts) -> float:
        found: float = audit.clopper_pearson(counts, delta, level)
        return found

    return audit.by_halves(scores, bound)[0]


def _mu(scores: Scores, level: float) -> float:
    def bound(counts: Counts) -> float:
        found: float = audit.gaussian_mu(counts, level)
        return found

    return audit.by_halves(scores, bound)[0]


def _sampled(cohort: Cohort) -> bool:
    """Return whether the claim leans on secret cohorts."""
    return cohort.kind == "poisson" and cohort.rate < 1


def _closed(mu: float, delta: float) -> float:
    return gaussian.epsilon_of(mu, delta) if mu > 0 else 0.0


def _priced(federation: Federation, budget: ClientBudget, mu: float) -> float:
    """Return what the schedule costs at the largest noise that `mu` of one release leaves possible.

    A bound for Gaussian noise and cohorts as planned: it sees less noise, not another law of the cohorts.
    """
    if mu <= 0:
        return 0.0
    louder = dataclasses.replace(budget, noise_multiplier=1 / mu)
    privacy = dataclasses.replace(federation.settings.privacy, client=louder)
    schedule = Federation(dataclasses.replace(federation.settings, privacy=privacy)).whole_schedule
    accountant = PldAccountant(federation.relation, "client").compose(schedule)
    return accountant.epsilon(budget.delta or 0.0).lower or 0.0
