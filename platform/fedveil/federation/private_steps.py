"""Private training inside a client: from a budget for images or people to public constants, the same on both sides.

Every local step is one release: units of the client (its images, or its people) join by secret coins of a public rate,
their gradients are clipped to a public norm and summed, Gaussian noise is added once, and the sum is divided by a
public number (DP-SGD: Abadi et al. 2016, https://arxiv.org/abs/1607.00133). The class centres are in the same clipped
and noised vector, or fixed.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from fedveil import checks
from fedveil.configuration.schema import Config
from fedveil.configuration.training_budget import IdentityBudget, ImageBudget, TrainingBudget
from fedveil.privacy import calibration, events
from fedveil.privacy.events import Event, LocalRelease, NonPrivate, Release, Unit

VIEW = "every update that a client sends, and every model"

_Budget = TypeVar("_Budget", ImageBudget, IdentityBudget)

Budgeted = Release | NonPrivate
"""What private steps release: with noise, or clipped alone (epsilon inf)."""


def budget_of(settings: Config) -> TrainingBudget | None:
    """Return the budget of private training, for images or for people, or None where there is none."""
    return settings.privacy.image or settings.privacy.identity


def planned(settings: Config, rounds: int) -> Config:
    """Return the configuration with the noise multiplier that the budget needs for `rounds` rounds, found once.

    Raises:
        fedveil.checks.UserError: a budget that is incomplete, meaningless or cannot be met.
    """
    privacy = settings.privacy
    image, identity = _with_noise(settings, privacy.image, rounds), _with_noise(settings, privacy.identity, rounds)
    return dataclasses.replace(settings, privacy=dataclasses.replace(privacy, image=image, identity=identity))


def _with_noise(settings: Config, budget: _Budget | None, rounds: int) -> _Budget | None:
    if budget is None or not budget.asked:
        return None
    here = f"privacy.{budget.unit}"
    if budget.epsilon == math.inf and budget.noise_multiplier is not None:
        raise checks.UserError(
            f"{here}.epsilon=inf clips without noise, and {here}.noise_multiplier={budget.noise_multiplier!r} asks for "
            "noise; remove one of them."
        )
    if budget.noise_multiplier is not None or budget.epsilon == math.inf:
        return budget
    if budget.delta is None:
        raise checks.UserError(f"{here}.delta is needed, for example 1e-5, and at most 1 / (10 x {budget.unit}s).")
    each = _steps(settings, budget)
    steps = rounds * each
    if budget.sampling_rate * steps <= budget.delta:
        raise checks.UserError(
            f"{here}.sampling_rate={budget.sampling_rate:g} over {steps} steps is at most {here}.delta="
            f"{budget.delta:g}: so rare a unit may be published in full, so no noise would be enough. Raise the rate."
        )
    schedule = multipliers(1.0, budget.noise_end, rounds)
    noise = _calibrated(budget.epsilon or 0.0, budget.delta, budget.sampling_rate, each, schedule, budget.unit)
    return dataclasses.replace(budget, noise_multiplier=noise)


@functools.lru_cache(maxsize=64)
def _calibrated(
    epsilon: float, delta: float, rate: float, steps: int, schedule: tuple[float, ...], unit: Unit
) -> float:
    """Return the first round's multiplier of one schedule; a sweep asks for the same one many times."""

    def plan(noise: float) -> Event:
        return composed([_round(rate, noise * factor, steps) for factor in schedule])

    return calibration.calibrate(epsilon, delta, plan, "zero-out", unit).noise_multiplier


def multipliers(first: float, end: float, rounds: int) -> tuple[float, ...]:
    """Return every round's noise multiplier: from `first`, geometrically, to `first` times `end` in the last round.

    A public schedule: every round is priced at its own multiplier, so the composition is exact whatever its shape.

    >>> [round(noise, 3) for noise in multipliers(4.0, 0.25, 3)]
    [4.0, 2.0, 1.0]
    """
    return tuple(first * end ** (number / max(1, rounds - 1)) for number in range(rounds))


def _round(rate: float, noise: float, steps: int) -> Event:
    return events.Repeated(events.PoissonSampled(rate, events.Gaussian(noise)), steps)


def composed(rounds: Sequence[Event]) -> Event:
    """Return rounds together as one event; equal ones are merged, which an accountant prices at once."""
    counted = [events.Repeated(event, count) for event, count in collections.Counter(rounds).items()]
    return counted[0] if len(counted) == 1 else events.Composed(tuple(counted))


def _steps(settings: Config, budget: TrainingBudget) -> int:
    steps = settings.train.local.steps
    if steps is None:
        raise checks.UserError(
            f"privacy.{budget.unit} needs train.local.steps=N: how many private steps a round has must be public, and "
            "passes over a client's images would tell how many it has."
        )
    return steps


def expected_batch(settings: Config) -> int:
    """Return the public divisor of a step's noisy sum."""
    budget = _needed(settings)
    return budget.expected_batch or settings.train.batch_size


def check(settings: Config, protection: Any) -> None:
    """Refuse what would not be private, or accepted and then not done.

    Raises:
        fedveil.checks.UserError: naming the setting and the remedy.
    """
    both = settings.privacy.image, settings.privacy.identity
    if None not in both:
        raise checks.UserError(
            "privacy.image and privacy.identity together would need one clip for two units; keep one. A guarantee for "
            "people bounds what one of their images may change, too, at a larger epsilon."
        )
    budget = budget_of(settings)
    if budget is None:
        return
    here, train = f"privacy.{budget.unit}", settings.train
    _steps(settings, budget)
    if budget.noise_multiplier is None and budget.epsilon != math.inf:
        raise checks.UserError(
            f"{here} has a target and no noise multiplier: `fedveil simulate`, `sweep` and `bundle` find it; a "
            f"configuration written by hand must carry {here}.noise_multiplier."
        )
    if protection.phases:
        raise checks.UserError(
            f"{here} covers the recogniser's steps, and protection={settings.protection.name} first learns from clean "
            "faces in rounds of its own, which nothing would cover; choose protection=none, dct, dctdp or partialface."
        )
    formal = isinstance(protection.planned(_size(settings)), LocalRelease)
    if formal and not protection.memoise:
        raise checks.UserError(
            f"{here} reads a picture as often as coins say, and with protection.memoise=false every reading is another "
            "release of it, of which nothing public bounds the number; leave protection.memoise=true."
        )
    if settings.privacy.noise == "grid" and budget.noise_multiplier is not None:
        raise checks.UserError(
            f"privacy.noise=grid does not go with {here}: a step's clipped sum is rounded in float32 before any noise, "
            "which no grid undoes; set privacy.noise=real, and the claim says that it assumes real arithmetic."
        )
    for setting, value, off, why in (
        ("train.correction", train.correction, "none", "a client's variates would carry every round's noise"),
        ("train.class_share", train.class_share, 1.0, "which centres compete would depend on who is in the batch"),
        ("train.bank_identities", train.bank_identities, 0, "public faces need no clip, and here everything has one"),
    ):
        if value != off:
            raise checks.UserError(f"{setting}={value} does not go with {here}: {why}; set {setting}={off}.")


def _size(settings: Config) -> tuple[int, int]:
    side = int(settings.data.settings["size"])
    return side, side


def in_round(settings: Config, rounds: int, number: int) -> TrainingBudget:
    """Return the budget of a planned configuration with the noise multiplier of its round `number`, from 1."""
    budget = _needed(settings)
    if budget.noise_multiplier is None:
        return budget
    if not 1 <= number <= rounds:
        raise ValueError(f"Round {number} is none of the {rounds} rounds.")
    return dataclasses.replace(
        budget, noise_multiplier=multipliers(budget.noise_multiplier, budget.noise_end, rounds)[number - 1]
    )


def round_release(settings: Config, rounds: int, number: int) -> Budgeted:
    """Return what round `number` of the `rounds` of a planned configuration releases of one unit of a client."""
    budget = in_round(settings, rounds, number)
    if budget.noise_multiplier is None:
        return NonPrivate(budget.unit, VIEW, "gradients are clipped, but no noise is added (epsilon inf)")
    steps = _steps(settings, budget)
    detail: tuple[tuple[str, str | float | int | bool], ...] = (
        ("clip", budget.clip),
        ("clipping", budget.clipping),
        ("delta", budget.delta or 0.0),
        ("expected_batch", expected_batch(settings)),
        ("head", budget.head),
        ("noise_end", budget.noise_end),
        ("rounds", rounds),
        ("rows", budget.rows),
        ("steps", steps),
    )
    event = _round(budget.sampling_rate, budget.noise_multiplier, steps)
    return Release(budget.unit, "zero-out", VIEW, event, detail)


def schedule(releases: Sequence[Budgeted]) -> Budgeted:
    """Return the releases of all rounds of a configuration as one: what an owner reserves on joining."""
    first = releases[0]
    if isinstance(first, NonPrivate):
        return first
    rounds = [one.event for one in releases if isinstance(one, Release)]
    return dataclasses.replace(first, event=composed(rounds))


def _needed(settings: Config) -> TrainingBudget:
    budget = budget_of(settings)
    if budget is None:
        raise ValueError("No budget of private training is configured.")
    return budget
