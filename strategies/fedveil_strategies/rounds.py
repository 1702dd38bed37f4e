"""The round loop, free of Flower: cohort -> replies -> validate -> ordered sum -> expected mean -> server optimiser.

State goes in and comes out of every round, so a run interrupted anywhere goes on from its last checkpoint with equal
bits: replies may arrive in any order and are summed in the registry's, in float64, into one accumulator. An update is
let go of before the next one is taken, so a round holds the sum and one update, however large its cohort is.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil import blocks, checks
from fedveil.configuration.schema import Cohort
from fedveil.federation import packed
from fedveil.records import Failure, RoundReport, Tensors, Update
from fedveil_strategies import cohorts
from fedveil_strategies.aggregation.base import Aggregation, Mean
from fedveil_strategies.contributions import Block, Layout

Transport = Callable[[int, Sequence[str], Tensors], Iterable[Update | Failure]]
"""(round, client ids, global tensors) -> one answer per client, in any order."""
Observer = Callable[[RoundReport], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Public constants of a run.

    Attributes:
        allowed: the tensors that an update carries, no more and no fewer.
        tolerated: largest share of those asked that may fail before the run stops with the first reason; a failed
            client below it counts as a zero update, and so does one that the roll call has excluded. None never stops:
            under a client-level claim who failed is secret.
    """

    rounds: int
    registry: Sequence[str]
    cohort: Cohort
    seed: int
    allowed: tuple[str, ...]
    tolerated: float | None = 0.5


@dataclasses.dataclass(frozen=True)
class State:
    """What a round starts from.

    Attributes:
        round: number of finished rounds.
        tensors: global tensors.
        optimiser: the server optimiser's tensors.
        memory: released numbers that combining remembers, such as the clipping norm; empty for the plain mean.
    """

    round: int
    tensors: Tensors
    optimiser: Tensors
    memory: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Combined:
    """A round's answers as one mean update over the expected cohort, float64, and who failed."""

    mean: Mean
    failures: tuple[Failure, ...]
    memory: Mapping[str, float] = dataclasses.field(default_factory=dict)


class RoundFailed(checks.UserError):
    """So many of those who were asked failed in a round that the run stops.

    Attributes:
        round: its number.
        failures: of all of them, as observers would have been told.
    """

    def __init__(self, number: int, failures: Sequence[Failure], what: str, first: Failure) -> None:
        super().__init__(f"Round {number}: {what}; the first, {first.client_id}: {first.reason}")
        self.round, self.failures = number, tuple(failures)


Combine = Callable[[int, Iterable[Update | Failure], State], Combined]
"""(round, answers in registry order, the state before it) -> what goes to the server optimiser."""
Draw = Callable[[int], Sequence[str]]
"""Round -> the clients that join it, in registry order."""


def shaped(answer: Update | Failure, allowed: Sequence[str], tensors: Tensors) -> Update | Failure:
    """Return an update that is exactly the allow-list in names, shapes and dtypes, or the failure to be so."""
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
    return answer


def validated(answer: Update | Failure, allowed: Sequence[str], tensors: Tensors) -> Update | Failure:
    """Return an update that `shaped` accepts and that is finite, or the failure to be so.

    >>> bad = Update("c1", {"w": np.array([np.nan], np.float32)})
    >>> validated(bad, ["w"], {"w": np.zeros(1, np.float32)})
    Failure(client_id='c1', reason='tensor w holds values that are not finite', kind='failed')
    """
    found = shaped(answer, allowed, tensors)
    if isinstance(found, Failure):
        return found
    for name in allowed:
        if not packed.all_finite(found.tensors[name]):
            return Failure(answer.client_id, f"tensor {name} holds values that are not finite")
    return found


class Waiting(Protocol):
    """Where answers wait for their turn, by client: a dictionary, or `early.Shelf`."""

    def __contains__(self, client: object, /) -> bool: ...

    def __setitem__(self, client: str, answer: Update | Failure, /) -> None: ...

    def pop(self, client: str, /) -> Update | Failure:
        """Return a client's answer and forget it."""
        ...


def ordered(
    answers: Iterable[Update | Failure], cohort: Sequence[str], waiting: Waiting | None = None
) -> Iterator[Update | Failure]:
    """Yield one answer per client of the cohort in cohort order, whatever order they arrive in; the missing fail.

    Args:
        answers: as they arrive; of two of one client the first.
        cohort: in the order of the sum.
        waiting: where those wait that come before their turn; None: in memory.
    """
    names = list(cohort)
    awaited = set(names)
    waiting = {} if waiting is None else waiting
    turn = 0
    for answer in answers:
        if answer.client_id in awaited:
            awaited.discard(answer.client_id)
            if answer.client_id == names[turn]:
                turn += 1
                yield answer
            else:
                waiting[answer.client_id] = answer
        del answer  # what has been summed is not kept until the next one comes
        while turn < len(names) and names[turn] in waiting:
            turn += 1
            yield waiting.pop(names[turn - 1])
    for client in names[turn:]:
        yield waiting.pop(client) if client in waiting else Failure(client, "no reply", "late")


def _add(total: Mean, update: Tensors, layout: Layout) -> None:
    """Add an update to the sum, in blocks and on all cores."""
    flat = {name: value.reshape(-1) for name, value in total.items()}
    parts = {name: update[name].reshape(-1) for name in total}

    def work(block: Block, scratch: blocks.Scratch) -> None:
        flat[block.name][block.inside] += parts[block.name][block.inside]

    blocks.each(work, layout.blocks, layout.size)


def expected_mean(
    answers: Iterable[Update | Failure], plan: Plan, tensors: Tensors
) -> tuple[Mean, list[Failure]]:
    """Return the sum of the valid updates over the *expected* cohort, float64, and the failures (zero updates).

    The divisor is public: it does not depend on who came. Clients weigh the same.
    """
    total: dict[str, NDArray[np.float64]] = {
        name: np.zeros(tensors[name].shape, np.float64) for name in plan.allowed
    }
    layout = Layout({name: value.shape for name, value in total.items()}, plan.allowed)
    failures: list[Failure] = []
    for answer in answers:
        checked = validated(answer, plan.allowed, tensors)
        if isinstance(checked, Failure):
            failures.append(checked)
            continue
        _add(total, checked.tensors, layout)
        del answer, checked  # before the next one is taken
    divisor = cohorts.expected_size(plan.cohort, len(plan.registry))
    for value in total.values():
        value /= divisor
    return total, failures


def plain(plan: Plan) -> Combine:
    """Return the combination without privacy: `expected_mean`."""

    def combine(number: int, answers: Iterable[Update | Failure], state: State) -> Combined:
        mean, failures = expected_mean(answers, plan, state.tensors)
        return Combined(mean, tuple(failures))

    return combine


def public(plan: Plan) -> Draw:
    """Return the cohorts that the public seed draws."""

    def draw(number: int) -> Sequence[str]:
        return cohorts.draw(plan.cohort, plan.registry, cohorts.public_words(plan.seed, number))

    return draw


def run(
    plan: Plan,
    state: State,
    transport: Transport,
    aggregation: Aggregation,
    observers: Sequence[Observer],
    draw: Draw | None = None,
    combine: Combine | None = None,
    proceed: Callable[[int], bool] = lambda number: True,
    sent: Callable[[State], Tensors] = lambda state: state.tensors,
) -> State:
    """Run the rounds that `state` has not seen and return the last state; observers are told after every round.

    Cohorts come from the public seed and answers are averaged unless `draw` and `combine` say otherwise; the run ends
    before the first round that `proceed` refuses. Clients are given what `sent` makes of the state before the round.

    Raises:
        RoundFailed: more than the tolerated share of a cohort fails; the message has the first reason.
    """
    size = sum(value.nbytes for value in sent(state).values())
    back = sum(state.tensors[name].nbytes for name in plan.allowed)
    expected_bytes = cohorts.expected_size(plan.cohort, len(plan.registry)) * (size + back)
    draw, combine = draw or public(plan), combine or plain(plan)
    for number in range(state.round + 1, plan.rounds + 1):
        if not proceed(number):
            break
        begun = time.perf_counter()
        cohort = draw(number)
        combined = combine(number, ordered(transport(number, cohort, sent(state)), cohort), state)
        failures = combined.failures
        failed = [failure for failure in failures if failure.kind != "excluded"]
        asked = len(cohort) - len(failures) + len(failed)
        if plan.tolerated is not None and len(failed) > plan.tolerated * asked:
            raise RoundFailed(number, failures, f"{len(failed)} of {asked} clients failed", failed[0])
        tensors, optimiser = aggregation.step(dict(state.tensors), combined.mean, dict(state.optimiser))
        state = State(number, tensors, optimiser, combined.memory)
        del combined  # two tensors' size in float64
        seconds = time.perf_counter() - begun
        report = RoundReport(
            number, plan.rounds, tensors, optimiser, len(cohort), failures, seconds, expected_bytes, state.memory
        )
        for observer in observers:
            observer(report)
    return state
