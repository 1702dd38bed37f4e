"""From one stage of a run to the next: a protection's federated phases, then the recogniser."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil.federation import warm_start
from fedveil.federation.federation import Federation
from fedveil.federation.schedule import Stage
from fedveil.federation.tensors import get_tensors
from fedveil.protections.base import Progress, State
from fedveil.records import Tensors
from fedveil_strategies import rounds
from fedveil_strategies.session import Session


def plan_of(federation: Federation, stage: Stage, tensors: Tensors) -> rounds.Plan:
    """Return the public constants of a stage's rounds."""
    settings = federation.settings
    return rounds.Plan(
        rounds=stage.last,
        registry=federation.registry,
        cohort=settings.train.cohort,
        seed=settings.seed,
        allowed=federation.trainable(list(tensors), stage),
        tolerated=0.5 if settings.privacy.client is None else None,
    )


def initial(
    federation: Federation,
    stage: Stage,
    state: State,
    backbone: Any,
    given: Mapping[str, NDArray[np.float32]],
    progress: Progress,
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that a stage starts from: a phase's own, or the recogniser's, `given` ones on top."""
    if stage.phase is None and set(given) == {name for name, _ in backbone.named_parameters()}:
        found = get_tensors(backbone)
    elif stage.phase is None:
        found = warm_start.initial(federation, state, backbone, progress)
    else:
        found = get_tensors(federation.network(stage, state))
    odd = {name for name in given if name not in found or found[name].shape != given[name].shape}
    if odd:
        raise ValueError(f"A phase gave tensors that the next network does not have: {sorted(odd)[:3]}.")
    return {**found, **given}


def advance(session: Session, end: rounds.State) -> Session:
    """Finish the session's phase with the tensors it ended with and return the session at its next stage.

    What a phase leaves is a function of its aggregated tensors and of public faces, so an interrupted run that does
    this again arrives at the same values.
    """
    federation, settings, phase = session.federation, session.settings, session.stage.phase
    if phase is None:
        raise ValueError("The recogniser's rounds are the last stage.")
    done = end.round - session.stage.first + 1
    session.console.say(f"learnt: {session.stage.name} ({done} of {phase.rounds} rounds)")
    public = federation.public
    state, given = phase.finish(
        end.tensors, session.state, public.images(), public.labels, settings.seed, session.console.progress,
        federation.place.exact,
    )
    stage = federation.stages[session.stage.index + 1]
    tensors = initial(federation, stage, state, session.backbone, given, session.console.progress)
    plan = plan_of(federation, stage, tensors)
    if given and settings.train.warm_start is not None:
        session.console.say(f"train.warm_start is not used: {session.stage.name} says where the next network starts")
    if session.level is not None:
        session.level.enter(plan)
        for line in session.level.lines(sum(tensors[name].size for name in plan.allowed)):
            session.console.say(textwrap.fill(line, 80))
    start = rounds.State(end.round, tensors, {})
    return dataclasses.replace(session, state=state, stage=stage, start=start, plan=plan)
