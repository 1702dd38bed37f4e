"""Learning rates over rounds: what a public schedule multiplies the local rates by, a function of the round alone.

So every engine, every attempt of an interrupted run and every owner's machine arrive at the same rates, and a schedule
tells nothing of anybody: it costs no privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from fedveil.configuration.recipe import Schedule
from fedveil.federation.schedule import Stage


def factor(schedule: Schedule, stage: Stage, round_number: int) -> float:
    """Return what the rates of a round are multiplied by, in (0, 1]; each stage has the whole curve to itself.

    With w the warm-up's rounds, the n-th round of a stage has n / (w + 1) while n <= w. After that `constant` has 1;
    `cosine` falls from 1 in round w + 1 along half a cosine towards `final`, which the round after the last would have
    (SGDR without restarts, https://arxiv.org/abs/1608.03983), so no round is trained with rate 0; `steps` has one more
    power of `schedule.factor` after each milestone, a share of all the stage's rounds, rounded.

    Args:
        schedule: of the configuration.
        stage: the one that the round belongs to.
        round_number: counted through all stages, from 1.

    >>> stage = Stage(0, "recogniser", first=1, last=8)
    >>> [round(factor(Schedule("cosine", warm_up=0.25), stage, number), 2) for number in range(1, 9)]
    [0.33, 0.67, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
    """
    number, rounds = round_number - stage.first + 1, stage.last - stage.first + 1
    if not 1 <= number <= rounds:
        raise ValueError(f"Round {round_number} is none of the rounds {stage.first} to {stage.last}.")
    warm = _rounded(schedule.warm_up * rounds)
    if number <= warm:
        return number / (warm + 1)
    return _CURVES[schedule.kind](schedule, number, warm, rounds)


def _rounded(rounds: float) -> int:
    return math.floor(rounds + 0.5)


def _constant(schedule: Schedule, number: int, warm: int, rounds: int) -> float:
    return 1.0


def _cosine(schedule: Schedule, number: int, warm: int, rounds: int) -> float:
    done = (number - warm - 1) / (rounds - warm)
    return schedule.final + (1.0 - schedule.final) * 0.5 * (1.0 + math.cos(math.pi * done))


def _steps(schedule: Schedule, number: int, warm: int, rounds: int) -> float:
    passed = sum(number > _rounded(share * rounds) for share in schedule.milestones)
    return schedule.factor**passed


_CURVES: Mapping[str, Callable[[Schedule, int, int, int], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "steps": _steps,
}
