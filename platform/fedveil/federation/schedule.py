"""The public schedule of a run: the protection's federated phases, then the recogniser's rounds, numbered through."""

from __future__ import annotations

import dataclasses

from fedveil.protections.base import Phase, Protection


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


def stages(protection: Protection, rounds: int) -> tuple[Stage, ...]:
    """Return the stages of a protection with `rounds` rounds of the recogniser, which come last.

    >>> from fedveil.protections.none import NoProtection
    >>> stages(NoProtection(), 3)
    (Stage(index=0, name='recogniser', first=1, last=3, phase=None),)
    """
    found: list[Stage] = []
    first = 1
    for phase in protection.phases:
        found.append(Stage(len(found), phase.name, first, first + phase.rounds - 1, phase))
        first += phase.rounds
    return (*found, Stage(len(found), "recogniser", first, first + rounds - 1))
