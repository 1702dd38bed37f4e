"""The public schedule of a run: the protection's federated phases, then the recogniser's rounds, numbered through."""

from __future__ import annotations

import dataclasses
from typing import Any

from fedveil import config
from fedveil.configuration.schema import Config
from fedveil.protections.base import Phase


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of rounds in which one network is trained.

    Attributes:
        index: position in the schedule, from 0.
        name: what is learnt; "recogniser" for the last stage.
        first: number of its first round, from 1.
        last: number of its last round.
        phase: the protection's phase; None for the recogniser's rounds.
    """

    index: int
    name: str
    first: int
    last: int
    phase: Phase | None = None


def stages(settings: Config, protection: Any = None) -> tuple[Stage, ...]:
    """Return the stages of a configuration, the recogniser's last.

    >>> stages(config.load(["protection=none", "train.rounds=3"]))
    (Stage(index=0, name='recogniser', first=1, last=3, phase=None),)
    """
    chosen = protection if protection is not None else config.build(settings, "protection")
    found: list[Stage] = []
    first = 1
    for phase in chosen.phases:
        found.append(Stage(len(found), phase.name, first, first + phase.rounds - 1, phase))
        first += phase.rounds
    return (*found, Stage(len(found), "recogniser", first, first + settings.train.rounds - 1))


def stage_of(settings: Config, round_number: int, protection: Any = None) -> Stage:
    """Return the stage that a round belongs to."""
    return next(stage for stage in stages(settings, protection) if round_number <= stage.last)


def total_rounds(settings: Config) -> int:
    """Return the rounds of all stages: every one of them releases a model, so budgets pay for them all."""
    return stages(settings)[-1].last
