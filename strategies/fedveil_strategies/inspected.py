"""What a round releases of one client's update, to somebody who knows the updates of everybody else.

That is the adversary of a client-level guarantee: whatever the others sent is taken off, and one clipped update with
the noise of the whole round is left.
"""

from __future__ import annotations

import numpy as np

from fedveil import randomness
from fedveil.federation.federation import Federation
from fedveil.protections.base import State
from fedveil.randomness import SecretStream
from fedveil.records import Tensors, Update
from fedveil_strategies import cohorts, phases, private


def start(federation: Federation, state: State) -> Tensors:
    """Return the tensors that the recogniser's rounds of a run without phases began with."""
    backbone = federation.place.module(federation.backbone())
    return phases.initial(federation, federation.stages[-1], state, backbone, {}, lambda done, total: None)


def released(federation: Federation, update: Tensors, tensors: Tensors, seed: int, *labels: str | int) -> Tensors:
    """Return an update as a round of the run's client-level mechanism shows it: clipped, noised, not divided.

    Args:
        federation: of a planned configuration; without a client-level budget the update is what it is.
        update: of one client, the allow-list.
        tensors: the global tensors.
        seed: of the noise, a public draw from the run's own law.
        labels: which draw.
    """
    settings = federation.settings
    budget = settings.privacy.client
    if budget is None:
        return update
    plan = phases.plan_of(federation, federation.stages[-1], tensors)
    mechanism = private.Mechanism(
        noise_multiplier=budget.noise_multiplier or 0.0, clip=budget.clip or 1.0,
        expected=cohorts.expected_size(plan.cohort, len(plan.registry)), quantile=budget.quantile,
        share=budget.quantile_share, clip_lr=budget.quantile_lr, kind=settings.privacy.noise,
    )  # fmt: skip
    answers = [Update("one", update)]
    total, count, _ = private.bounded_sums(answers, plan, tensors, mechanism, mechanism.clip)
    stream = SecretStream(randomness.test_key(seed, "released", *labels))
    mean = private.released(total, count, plan, tensors, mechanism, mechanism.clip, stream).mean
    return {name: (value * mechanism.expected).astype(np.float32) for name, value in mean.items()}
