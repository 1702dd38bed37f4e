"""Client-level differential privacy at the coordinator: clip -> sum -> noise -> divide by the public cohort.

Our own code from clip to noise: nothing on this path comes from Flower's wrappers. One client's whole contribution to
a round is a vector in a ball of radius C; the noise has standard deviation z * C on the *sum*. Neighbouring federations
differ in one client's reply being replaced by nothing, which moves the sum by at most C (Poisson cohorts, zero-out), or
by any other client's, 2 C (fixed cohorts, replace-one): the accountant applies that factor to the event's z.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import torch

from fedveil import checks
from fedveil.privacy import clipping, noise
from fedveil.privacy.banded import Correlated
from fedveil.randomness import SecretStream
from fedveil.records import Failure, Tensors, Update
from fedveil_strategies import contributions, rounds
from fedveil_strategies.aggregation.base import Mean
from fedveil_strategies.contributions import Layout


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """Public constants of a client-level guarantee.

    Attributes:
        noise_multiplier: z, the accounted noise of a whole round in units of C; 0 clips without noise.
        clip: C in round 1, the largest L2 norm of one client's update.
        expected: the public divisor, q * N or the fixed size.
        quantile: which quantile of update norms C follows; None keeps C.
        share: of the round's budget, what the quantile's noisy count may spend; in (0, 1).
        clip_lr: step of the geometric update of C.
        kind: how the noise is drawn.
    """

    noise_multiplier: float
    clip: float
    expected: float
    quantile: float | None = None
    share: float = 0.05
    clip_lr: float = 0.2
    kind: noise.Kind = "real"

    def __post_init__(self) -> None:
        checks.non_negative(noise_multiplier=self.noise_multiplier)
        checks.positive(clip=self.clip, expected=self.expected, clip_lr=self.clip_lr)
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise checks.UserError(f"Expected privacy.client.quantile={self.quantile!r} in (0, 1).")
        if not 0 < self.share < 1:
            raise checks.UserError(f"Expected privacy.client.quantile_share={self.share!r} in (0, 1).")

    @property
    def update_multiplier(self) -> float:
        """Noise on the sum of updates in units of C: z, or z / sqrt(1 - share) beside a noisy count.

        Two Gaussian queries of multipliers a and b cost what one of (a^-2 + b^-2)^-1/2 costs.
        """
        return self.noise_multiplier / (math.sqrt(1 - self.share) if self.quantile is not None else 1.0)

    @property
    def count_multiplier(self) -> float:
        """Noise on the centred count in units of one indicator's size, 1/2."""
        return self.noise_multiplier / math.sqrt(self.share)

    def update_noise(self, clip: float) -> noise.Noise | None:
        """Return the noise on the sum of updates at this C; None without any."""
        if self.noise_multiplier == 0:
            return None
        return noise.Noise(self.kind, "gaussian", self.update_multiplier * clip)

    def count_noise(self) -> noise.Noise | None:
        """Return the noise on the centred count; None where nothing is counted or there is none."""
        if self.noise_multiplier == 0 or self.quantile is None:
            return None
        return noise.Noise(self.kind, "gaussian", self.count_multiplier * 0.5)

    def check_sums(self, clients: int) -> None:
        """Refuse so little noise that a grid cannot hold the sums over all clients; C may change, the ratio does not.

        Raises:
            UserError: naming the remedy.
        """
        for drawn, bound in ((self.update_noise(self.clip), self.clip), (self.count_noise(), 0.5)):
            if drawn is not None:
                drawn.check_sum(clients, bound)


@dataclasses.dataclass(frozen=True)
class NoisySum:
    """What a round releases; everything computed from it is free.

    Attributes:
        mean: the noisy sum over the expected cohort, by tensor.
        clip: C of the next round.
    """

    mean: Mean
    clip: float


def indicator(norm: float, bound: float) -> float:
    """Return 1/2 when an update's norm is at most `bound`, else -1/2: centred, so its sensitivity is 1/2, not 1."""
    return 0.5 if norm <= bound else -0.5


def bounded_sums(
    answers: Iterable[Update | Failure], plan: rounds.Plan, tensors: Tensors, mechanism: Mechanism, bound: float
) -> tuple[torch.Tensor, float, list[Failure]]:
    """Return the sum of clipped updates (d,), the sum of centred indicators, and the failures (zero in both).

    Guarantee: replacing any one answer by a failure moves the first sum by at most `bound` and the second by at most
    1/2; replacing it by anything else moves them by at most 2 * `bound` and 1. Non-finite values become zero here, not
    a failure: whether a client's update was finite is as secret as the rest of it.

    The norm is of the whole update and found before any of it is added; it is off by less than 1e-14 of itself, and the
    clip leaves a margin of 1e-6. One update is held at a time.
    """
    sums, counts = mechanism.update_noise(bound), mechanism.count_noise()
    addend = _as_it_is if sums is None else sums.addend
    layout = Layout({name: tensors[name].shape for name in plan.allowed}, plan.allowed)
    total = torch.zeros(layout.size, dtype=torch.float64)
    count = 0.0
    failures: list[Failure] = []
    for answer in answers:
        checked = rounds.shaped(answer, plan.allowed, tensors)
        if isinstance(checked, Failure):
            failures.append(checked)
            continue
        length = contributions.length(checked.tensors, layout)
        factor, vote = clipping.factor(length.norm, bound), indicator(length.norm, bound)
        contributions.add(total.numpy(), checked.tensors, layout, factor, length.finite, addend)
        del answer, checked  # before the next one is taken
        count += vote if counts is None else float(counts.addend(torch.tensor(vote, dtype=torch.float64)))
    return total, count, failures


def _as_it_is(values: torch.Tensor) -> torch.Tensor:
    return values


def released(
    total: torch.Tensor, count: float, plan: rounds.Plan, tensors: Tensors, mechanism: Mechanism, clip: float,
    stream: SecretStream, correlated: Correlated | None = None,
) -> NoisySum:  # fmt: skip
    """Return the noisy sums of a round, divided by the public cohort; an empty cohort's sums are noised alike.

    Args:
        total: sum of clipped updates; used up: the mean lies in its place.
        count: sum of centred indicators.
        plan: public constants of the run.
        tensors: the global tensors, for their shapes.
        mechanism: public constants of the guarantee.
        clip: C of this round.
        stream: this round's secret stream, used for nothing else.
        correlated: what this round's fresh noise is given to and what is added comes from; None adds it as it is.
    """
    sums = mechanism.update_noise(clip)
    if sums is not None and correlated is None:
        sums.add_to(stream, total)
    elif sums is not None and correlated is not None:
        fresh = torch.zeros_like(total)
        sums.add_to(stream, fresh)
        total += correlated.next(fresh)
    total /= mechanism.expected
    mean = split(total, plan, tensors)
    return NoisySum(mean, _next_clip(count, mechanism, clip, stream))


def _next_clip(count: float, mechanism: Mechanism, clip: float, stream: SecretStream) -> float:
    """Return C * exp(-lr * (share of norms within C - quantile)), from a noisy count (Andrew et al., NeurIPS 2021).

    Too many norms within C shrink it, too few grow it, so it comes to the quantile from both sides.
    """
    if mechanism.quantile is None:
        return clip
    counts = mechanism.count_noise()
    if counts is not None:
        count = float(counts.added(stream, torch.tensor([count], dtype=torch.float64))[0])
    within = count / mechanism.expected + 0.5
    return clip * math.exp(-mechanism.clip_lr * (within - mechanism.quantile))


def split(vector: torch.Tensor, plan: rounds.Plan, tensors: Tensors) -> Mean:
    """Return the vector (d,) as tensors in allow-list order, which lie in its place."""
    values: Mean = {}
    place = 0
    for name in plan.allowed:
        shape = tensors[name].shape
        size = int(np.prod(shape))
        values[name] = vector[place : place + size].numpy().reshape(shape)
        place += size
    return values
