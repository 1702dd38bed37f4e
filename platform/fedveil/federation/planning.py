"""From budgets to the public constants that meet them, the same on both sides; clients' own are planned here."""

from __future__ import annotations

import dataclasses
import functools
import math

from fedveil import checks, config
from fedveil.configuration.schema import ClientBudget, Cohort, Config
from fedveil.federation import groups, private_steps, schedule, synthetic
from fedveil.federation.groups import Groups
from fedveil.privacy import banded, calibration, events
from fedveil.privacy.events import Relation, Release
from fedveil.privacy.totals import VIEW

LARGEST_DELTA = 1e-5


def largest_delta(units: int | None) -> float:
    """Return the largest delta under which a claim means something: 1e-5, or 1 / (10 x units) where that is smaller.

    Delta is the probability that nothing is promised, for each unit by itself: at 1 / units, publishing one unit in
    full would count as private. So where nothing public bounds their number (None), no delta is known to be small.

    >>> largest_delta(2000), largest_delta(1_000_000), largest_delta(None)
    (1e-05, 1e-07, 0.0)
    """
    return min(LARGEST_DELTA, 1 / (10 * units)) if units else 0.0


def deltas(settings: Config) -> dict[str, tuple[str, float]]:
    """Return the deltas at which a run's claims will stand, unit -> (setting, delta); pure guarantees have none."""
    found: dict[str, tuple[str, float]] = {}
    budget = settings.privacy.client
    noisy = budget is not None and (budget.noise_multiplier is not None or budget.epsilon != math.inf)
    if budget is not None and budget.delta is not None and noisy:
        found["client"] = ("privacy.client.delta", budget.delta)
    steps = private_steps.budget_of(settings)
    if steps is not None and steps.noise_multiplier is not None and steps.delta is not None:
        found[steps.unit] = (f"privacy.{steps.unit}.delta", steps.delta)
    method = dict(settings.protection.settings)
    if method.get("noise") == "gaussian" and "delta" in method:
        found["image"] = ("protection.delta", float(method["delta"]))
    return found


def check_delta(setting: str, delta: float, units: int | None, unit: str, limit: float | None) -> None:
    """Refuse a delta above the owner's own limit, or above `largest_delta` where the owner has none.

    Raises:
        fedveil.checks.UserError: naming the setting, its value and the remedy.
    """
    ceiling = largest_delta(units) if limit is None else limit
    if not 0 < delta <= ceiling:
        if units is None and limit is None:
            raise checks.UserError(
                f"Expected a public number of {unit}s beside {setting}={delta!r}: delta is to be at most 1 / (10 x "
                f"{unit}s), and nothing bounds them. Set partition.max_identities (people of one client); an owner who "
                "accepts an unknown number says so with policy.max_delta."
            )
        why = "the largest that means something"
        if limit is not None:
            why = "the largest that the owner accepts (policy.max_delta)"
        elif units and ceiling < LARGEST_DELTA:
            why = f"1 / (10 x {units:,} {unit}s)"
        raise checks.UserError(
            f"Expected {setting}={delta!r} in (0, {ceiling:g}], {why}: delta is the probability that nothing is "
            "promised, for each of them. Lower it; an owner who accepts more says so with policy.max_delta."
        )


def relation_of(cohort: Cohort) -> Relation:
    """Return zero-out for Poisson cohorts; replace-one for fixed ones, whose members replace one another."""
    return "zero-out" if cohort.kind == "poisson" else "replace-one"


def _sampled(cohort: Cohort, clients: int, noise_multiplier: float) -> events.Event:
    """Return what one round does to the clients that it may ask: the registry's, or one group's.

    Clients keep heads and vaults, so a fixed cohort is not amplified: it is priced as if all clients were in it.
    """
    gaussian = events.Gaussian(noise_multiplier)
    if cohort.kind == "poisson":
        return events.PoissonSampled(cohort.rate, gaussian)
    return events.FixedSize(cohort.size or 1, clients, gaussian, stateless=False)


def round_release(settings: Config, rounds: int, number: int = 1) -> Release | events.NonPrivate:
    """Return the release of round `number` of the `rounds` rounds of a planned configuration at client level.

    With independent noise all rounds' are equal; with bands a round's concerns the clients of its group alone.
    """
    budget, turns = _budget(settings), groups.of(settings)
    if budget.noise_multiplier is None:
        if budget.epsilon != math.inf:
            raise ValueError("A client-level target was not planned: call `planned` before a run starts.")
        return events.NonPrivate("client", VIEW, "updates are clipped, but no noise is added (epsilon inf)")
    detail: tuple[tuple[str, str | float | int | bool], ...] = (
        ("clip", budget.clip or 0.0),
        ("clients", settings.train.clients),
        ("delta", budget.delta or 0.0),
        ("quantile", budget.quantile if budget.quantile is not None else "none"),
        ("rounds", rounds),
    )
    if settings.privacy.noise == "grid":
        detail = tuple(sorted((*detail, events.ON_GRID)))
    if turns.bands > 1:
        detail = tuple(sorted((*detail, ("bands", turns.bands), (groups.GROUP, turns.of_round(number)))))
    event = _sampled(*_asked(settings.train.cohort, settings.train.clients, turns), budget.noise_multiplier)
    return Release("client", relation_of(settings.train.cohort), VIEW, event, detail)


def _asked(cohort: Cohort, clients: int, turns: Groups) -> tuple[Cohort, int]:
    """Return the law of a round's cohort, and among how many clients it is drawn."""
    return turns.cohort(cohort), turns.size(clients)


def whole_schedule(one: Release | events.NonPrivate, rounds: int) -> Release | events.NonPrivate:
    """Return `rounds` rounds as one release, of whichever group."""
    if isinstance(one, events.NonPrivate):
        return one
    detail = tuple(pair for pair in one.detail if pair[0] != groups.GROUP)
    return dataclasses.replace(one, event=events.Repeated(one.event, rounds), detail=detail)


def planned(settings: Config) -> Config:
    """Return the configuration with the noise multipliers that its budgets need, found once, and hashes of its files.

    They become public constants of the run: they are in config.json and reach every client. Of files those are hashed
    that more than one machine has a copy of (`synthetic`).

    Raises:
        fedveil.checks.UserError: a budget that is incomplete, meaningless or cannot be met, or a set of synthetic faces
            that cannot be read.
    """
    settings = _planned_clients(synthetic.planned(settings))
    if private_steps.budget_of(settings) is None:
        return settings
    return private_steps.planned(settings, _rounds(settings))


def _rounds(settings: Config) -> int:
    return schedule.stages(config.build(settings, "protection"), settings.train.rounds)[-1].last


def _planned_clients(settings: Config) -> Config:
    budget = settings.privacy.client
    if budget is None:
        return settings
    if budget.epsilon is None and budget.noise_multiplier is None:
        return dataclasses.replace(settings, privacy=dataclasses.replace(settings.privacy, client=None))
    _check(settings, budget)
    if budget.noise_multiplier is not None or budget.epsilon == math.inf:
        return settings
    train = settings.train
    turns = groups.of(settings)
    asked, count = _asked(train.cohort, train.clients, turns), turns.rounds_of_one(_rounds(settings))
    multiplier = _calibrated(budget.epsilon or 0.0, budget.delta or 0.0, *asked, count)
    found = dataclasses.replace(budget, noise_multiplier=multiplier)
    return dataclasses.replace(settings, privacy=dataclasses.replace(settings.privacy, client=found))


def loudness(settings: Config) -> float:
    """Return which multiple of its own noise a model carries, against independent noise: 1, or less with bands.

    Of prefix sums over the recogniser's rounds (`privacy.banded.Strategy.loudness`); what the server's optimiser does
    with them is left out.
    """
    bands = groups.of(settings).bands
    return banded.strategy(settings.train.rounds, bands).loudness() if bands > 1 else 1.0


def check_planned(settings: Config) -> None:
    """Refuse a configuration whose client-level noise was never found, or hashes of its files.

    Raises:
        fedveil.checks.UserError: naming the remedy.
    """
    synthetic.check_planned(settings)
    budget = settings.privacy.client
    if budget is not None and budget.noise_multiplier is None and budget.epsilon != math.inf:
        raise checks.UserError(
            "privacy.client has a target and no noise multiplier: `fedveil simulate`, `sweep` and `bundle` find it; a "
            "configuration written by hand must carry privacy.client.noise_multiplier."
        )


@functools.lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, cohort: Cohort, clients: int, rounds: int) -> float:
    """Return the multiplier of one schedule; a sweep asks for the same one many times."""

    def plan(noise: float) -> events.Event:
        return events.Repeated(_sampled(cohort, clients, noise), rounds)

    return calibration.calibrate(epsilon, delta, plan, relation_of(cohort)).noise_multiplier


def _check(settings: Config, budget: ClientBudget) -> None:
    if budget.clip is None:
        raise checks.UserError(
            "privacy.client.clip is needed: the largest L2 norm of one client's update, a public constant, for "
            "example privacy.client.clip=0.5; with privacy.client.quantile=0.5 it is only where clipping starts."
        )
    groups.check(settings)
    if budget.epsilon == math.inf:
        if budget.noise_multiplier is not None:
            raise checks.UserError(
                "privacy.client.epsilon=inf clips without noise, and privacy.client.noise_multiplier="
                f"{budget.noise_multiplier!r} asks for noise; remove one of them."
            )
        return
    cohort, rounds = settings.train.cohort, settings.train.rounds
    if cohort.kind == "poisson" and budget.delta is not None and cohort.rate * rounds <= budget.delta:
        raise checks.UserError(
            f"train.cohort.rate={cohort.rate:g} over train.rounds={rounds} is at most privacy.client.delta="
            f"{budget.delta:g}: so rare a client may be published in full, so no noise would be enough. Raise the rate."
        )
    if budget.delta is None:
        most = largest_delta(settings.train.clients)
        raise checks.UserError(f"privacy.client.delta is needed: at most {most:g} for this registry.")


def _budget(settings: Config) -> ClientBudget:
    if settings.privacy.client is None:
        raise ValueError("No client-level budget is configured.")
    return settings.privacy.client
