"""SCAFFOLD's control variate at the coordinator, found from the mean updates alone.

In SCAFFOLD (https://arxiv.org/abs/1910.06378, option II) a client's variate c_i is the mean gradient of its last round;
it steps along g - c_i + c and sends two vectors, its update and the change of c_i. Here it sends one: its update
without what c, which everybody has, did to it. That is D_i = -length * (mean g - c_i), with length the number of steps
times their rate, and the change of c_i is -D_i / length. So the coordinator knows the mean of the changes from the mean
of the D_i, and adds -length * c to that mean itself: the same c moves everybody, whoever came.

c is a sum over rounds of what was released, and tells nothing beside it. It would add up the noise of a client-level
guarantee as well, which clients' own variates know nothing of; `federation.recipe` refuses that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from fedveil.federation import rates
from fedveil.federation.federation import Federation
from fedveil.federation.schedule import Stage
from fedveil.federation.variates import PREFIX, beside
from fedveil.records import Tensors as Sent
from fedveil_strategies import cohorts, rounds
from fedveil_strategies.aggregation.base import Aggregation, Mean, Tensors

_DONE = "control_rounds"


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A server rule that is given the corrected mean update; its state holds the variate beside the rule's own.

    Attributes:
        inner: the rule.
        share: expected clients of a round over all clients; a variate moves when its client joins.
        length: round of the stage, from 1 -> local steps times their learning rate, public.
    """

    inner: Aggregation
    share: float
    length: Callable[[int], float]

    def step(self, tensors: Tensors, mean: Mean, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the inner rule's new tensors for mean - length * c, and its state with c - share * mean / length."""
        number = int(state.get(_DONE, np.zeros(1))[0]) + 1
        length = self.length(number)
        before = {name: state.get(PREFIX + name, np.float32(0.0)) for name in mean}
        corrected: Mean = {name: value - length * before[name] for name, value in mean.items()}
        own = {name: value for name, value in state.items() if name != _DONE and not name.startswith(PREFIX)}
        moved, after = self.inner.step(tensors, corrected, own)
        variate = {
            PREFIX + name: (before[name] - self.share / length * value).astype(np.float32)
            for name, value in mean.items()
        }
        return moved, {**after, **variate, _DONE: np.array([number], np.float32)}


def rule(federation: Federation, stage: Stage) -> Aggregation:
    """Return the server rule of a stage: the configured one, corrected where `train.correction` says so."""
    train, inner = federation.settings.train, federation.aggregation
    if train.correction == "none":
        plain: Aggregation = inner
        return plain

    def length(number: int) -> float:
        rate = rates.factor(train.schedule, stage, stage.first + number - 1) * train.lr
        return rate * (train.local.steps or 0)

    return Corrected(inner, cohorts.expected_size(train.cohort, train.clients) / train.clients, length)


def sent(federation: Federation, plan: rounds.Plan) -> Callable[[rounds.State], Sent]:
    """Return what a round sends to its clients: the global tensors, and c where drift is corrected."""
    return lambda state: beside(federation.settings, plan.allowed, state.tensors, state.optimiser)
