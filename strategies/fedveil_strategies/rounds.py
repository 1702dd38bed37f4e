"""The round loop, free of Flower: cohort -> replies -> validate -> ordered sum -> expected mean -> server optimiser.

State goes in and comes out of every round, so a run interrupted anywhere goes on from its last checkpoint with equal
bits: replies may arrive in any order and are summed in the registry's, in float64, into one accumulator.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.records import Failure, RoundReport, Tensors, Update
from fedveil.schema import Cohort
from fedveil_strategies import cohorts
from fedveil_strategies.aggregation.base import Aggregation, Mean

Transport = Callable[[int, Sequence[str], Tensors], Iterable[Update | Failure]]
"""(round, client ids, global tensors) -> one answer per client, in any order."""
Observer = Callable[[RoundReport], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Public constants of a run.

    Attributes:
        allowed: the tensors that an update carries, no more and no fewer.
        tolerated: largest share of a cohort that may fail before the run stops with the first reason; a failed client
            below it counts as a zero update.
    """

    rounds: int
    registry: tuple[str, ...]
    cohort: Cohort
    seed: int
    allowed: tuple[str, ...]
    tolerated: float = 0.5


@dataclasses.dataclass(frozen=True)
class State:
    """What a round starts from.

    Attributes:
        round: number of finished rounds.
        tensors: global tensors.
        optimiser: the server optimiser's tensors.
    """

    round: int
    tensors: Tensors
    optimiser: Tensors


def validated(answer: Update | Failure, allowed: Sequence[str], tensors: Tensors) -> Update | Failure:
    """Return an update that is exactly the allow-list, in shape, dtype and finite, or the failure to be so.

    >>> bad = Update("c1", {"w": np.array([np.nan], np.float32)})
    >>> validated(bad, ["w"], {"w": np.zeros(1, np.float32)})
    Failure(client_id='c1', reason='tensor w holds values that are not finite')
    """
    if isinstance(answer, Failure):
        return answer
    if set(answer.tensors) != set(allowed):
        odd = sorted(set(answer.tensors) ^ set(allowed))
        return Failure(answer.client_id, f"update with other tensors than the allow-list: {odd[:3]}")
    for name in allowed:
        value = answer.tensors[name]
        if value.dtype != np.float32 or value.shape != tensors[name].shape:
            found = f"{value.dtype} {value.shape}"
            return Failure(answer.client_id, f"tensor {name} is {found}, expected float32 {tensors[name].shape}")
        if not np.isfinite(value).all():
            return Failure(answer.client_id, f"tensor {name} holds values that are not finite")
    return answer


def ordered(answers: Iterable[Update | Failure], cohort: Sequence[str]) -> Iterator[Update | Failure]:
    """Yield one answer per client of the cohort in cohort order, whatever order they arrive in; the missing fail."""
    waiting: dict[str, Update | Failure] = {}
    turn = 0
    for answer in answers:
        if answer.client_id in cohort and answer.client_id not in waiting:
            waiting[answer.client_id] = answer
        while turn < len(cohort) and cohort[turn] in waiting:
            yield waiting.pop(cohort[turn])
            turn += 1
    for client in cohort[turn:]:
        yield waiting.get(client, Failure(client, "no reply"))


def expected_mean(
    answers: Iterable[Update | Failure], plan: Plan, tensors: Tensors
) -> tuple[Mean, list[Failure]]:
    """Return the sum of the valid updates over the *expected* cohort, float64, and the failures (zero updates).

    The divisor is public: it does not depend on who came. Clients weigh the same.
    """
    total: dict[str, NDArray[np.float64]] = {
        name: np.zeros(tensors[name].shape, np.float64) for name in plan.allowed
    }
    failures: list[Failure] = []
    for answer in answers:
        checked = validated(answer, plan.allowed, tensors)
        if isinstance(checked, Failure):
            failures.append(checked)
            continue
        for name in plan.allowed:
            total[name] += checked.tensors[name]
    divisor = cohorts.expected_size(plan.cohort, len(plan.registry))
    for value in total.values():
        value /= divisor
    return total, failures


def run(
    plan: Plan, state: State, transport: Transport, aggregation: Aggregation, observers: Sequence[Observer]
) -> State:
    """Run the rounds that `state` has not seen and return the last state; observers are told after every round.

    Raises:
        fedveil.checks.UserError: more than the tolerated share of a cohort fails; the message has the first reason.
    """
    size = sum(value.nbytes for value in state.tensors.values())
    back = sum(state.tensors[name].nbytes for name in plan.allowed)
    expected_bytes = cohorts.expected_size(plan.cohort, len(plan.registry)) * (size + back)
    for number in range(state.round + 1, plan.rounds + 1):
        begun = time.perf_counter()
        cohort = cohorts.draw(plan.cohort, plan.registry, plan.seed, number)
        answers = ordered(transport(number, cohort, state.tensors), cohort)
        mean, failures = expected_mean(answers, plan, state.tensors)
        if len(failures) > plan.tolerated * len(cohort):
            raise checks.UserError(
                f"Round {number}: {len(failures)} of {len(cohort)} clients failed; the first, "
                f"{failures[0].client_id}: {failures[0].reason}"
            )
        tensors, optimiser = aggregation.step(dict(state.tensors), mean, dict(state.optimiser))
        state = State(number, tensors, optimiser)
        seconds = time.perf_counter() - begun
        report = RoundReport(
            number, plan.rounds, tensors, optimiser, len(cohort), tuple(failures), seconds, expected_bytes
        )
        for observer in observers:
            observer(report)
    return state
