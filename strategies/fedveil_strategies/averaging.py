"""The mean of the models that rounds made, weighted towards the last ones: a quieter model out of noisy rounds.

Under noise the last round's model is the noisiest: an average over rounds keeps what they have in common (Polyak and
Juditsky 1992; under private noise De et al. 2022, https://arxiv.org/abs/2204.13650). It is computed from released
models alone, so it costs no privacy.

The average is the run's model, which is evaluated, kept and exported. Clients go on from the last round's tensors,
which are kept beside it in the server rule's state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedveil.federation.federation import Federation
from fedveil.federation.schedule import Stage
from fedveil.records import Tensors as Sent
from fedveil_strategies import control, rounds
from fedveil_strategies.aggregation.base import Aggregation, Mean, Tensors, blockwise

_LAST = "last/"
_DONE = "averaged_rounds"


@dataclasses.dataclass(frozen=True)
class Averaged:
    """A server rule whose tensors are the average, with weight decay^k for the model of k rounds ago.

    The start is not in it: after one round the average is that round's model.

    Attributes:
        inner: the rule that moves the tensors that clients start from.
        decay: in (0, 1); about 1 / (1 - decay) rounds count.

    >>> class Up:
    ...     def step(self, tensors, mean, state):
    ...         return {name: value + mean[name].astype(np.float32) for name, value in tensors.items()}, state
    >>> rule, average, state = Averaged(Up(), 0.5), {"w": np.zeros(1, np.float32)}, {}
    >>> for _ in range(3):  # the rounds' models are 1, 2 and 3
    ...     average, state = rule.step(average, {"w": np.ones(1)}, state)
    >>> round(float(average["w"][0]), 4), round((1 * 0.25 + 2 * 0.5 + 3) / 1.75, 4), float(state["last/w"][0])
    (2.4286, 2.4286, 3.0)
    """

    inner: Aggregation
    decay: float

    def step(self, tensors: Tensors, mean: Mean, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the average after this round, and the inner rule's state beside the tensors that it moved."""
        number = int(state.get(_DONE, np.zeros(1))[0]) + 1
        own = {name: value for name, value in state.items() if name != _DONE and not name.startswith(_LAST)}
        moved, after = self.inner.step(last(tensors, state), mean, own)
        share = (1 - self.decay) / (1 - self.decay**number)

        def nearer(before: NDArray[np.float32], now: NDArray[np.float32]) -> NDArray[np.float64]:
            return before + share * (now.astype(np.float64) - before)

        average = {name: blockwise(nearer, tensors[name], moved[name]) for name in mean}
        kept = {_LAST + name: moved[name] for name in mean}
        return {**moved, **average}, {**after, **kept, _DONE: np.array([number], np.float32)}


def last(tensors: Sent, state: Sent) -> Tensors:
    """Return the tensors that the last round ended with, of a model and the server rule's state; at first the model."""
    return {name: state.get(_LAST + name, value) for name, value in tensors.items()}


def rule(federation: Federation, stage: Stage) -> Aggregation:
    """Return the server rule of a stage, averaged where `train.average` says so; a phase ends with its last round."""
    inner, decay = control.rule(federation, stage), federation.settings.train.average
    return Averaged(inner, decay) if decay > 0 and stage.phase is None else inner


def sent(federation: Federation, plan: rounds.Plan) -> Callable[[rounds.State], Sent]:
    """Return what a round sends to its clients: the last round's tensors, and what corrects drift beside them."""
    inner = control.sent(federation, plan)
    return lambda state: inner(dataclasses.replace(state, tensors=last(state.tensors, state.optimiser)))
