"""From a target (epsilon, delta) to the noise that meets it, and whether anything can be learnt under that noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from fedveil import checks
from fedveil.privacy import events
from fedveil.privacy.accounting.base import Bound
from fedveil.privacy.accounting.pld import LIVE_GRID, PldAccountant
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import Event, Relation, Unit

_PRECISION = 1e-4  # relative, of the noise multiplier
_LARGEST = 1e7
_SMALLEST = 0.1
"""Below it a release is as good as in the clear, and its loss is hundreds of nats, which accountants bound badly."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The smallest noise found for a target.

    Attributes:
        noise_multiplier: standard deviation of the noise on the sum, in units of the clipping norm C.
        bound: what the accountant proves for it; `bound.upper` is never above the target.
        event: the whole planned schedule with this noise, as the accountant priced it.
    """

    noise_multiplier: float
    bound: Bound
    event: Event


def noise_multiplier_for(
    epsilon: float,
    delta: float,
    rate: float = 1.0,
    rounds: int = 1,
    relation: Relation = "zero-out",
    unit: Unit = "client",
    grid: float = LIVE_GRID,
) -> Calibration:
    """Return the smallest noise multiplier for `rounds` Gaussian releases on Poisson samples.

    Guarantee: the schedule is (epsilon, delta)-DP; the noise is within 1e-4 of the smallest that the accountant proves,
    and at least 0.1.

    Args:
        epsilon: target, nats, positive.
        delta: in (0, 1); below 1 / (10 * units) to mean anything.
        rate: public probability with which each unit joins a round; 1 means no amplification.
        rounds: number of releases.
        relation: "zero-out" (sensitivity C) or "replace-one" (2C; a fixed cohort of units with state is rate 1).
        unit: whose guarantee it is.
        grid: of the accountant, nats.

    Raises:
        UserError: on a target outside these ranges.

    >>> found = noise_multiplier_for(4.37719, 1e-5)
    >>> round(found.noise_multiplier, 3), found.bound.upper <= 4.37719
    (1.0, True)
    """
    checks.fraction(rate=rate)
    events.whole_count(rounds)

    def plan(noise: float) -> Event:
        return events.Repeated(events.PoissonSampled(rate, events.Gaussian(noise)), rounds)

    return calibrate(epsilon, delta, plan, relation, unit, grid)


def calibrate(
    epsilon: float,
    delta: float,
    plan: Callable[[float], Event],
    relation: Relation = "zero-out",
    unit: Unit = "client",
    grid: float = LIVE_GRID,
) -> Calibration:
    """Return the smallest noise multiplier z (relative precision 1e-4) whose `plan(z)` is (epsilon, delta)-DP.

    `plan` returns the whole schedule; its cost must fall as z grows. The guarantee is that of `noise_multiplier_for`.

    Raises:
        UserError: on a bad target, or when no noise up to 1e7 meets it (part of the plan costs too much by itself).
        UnsupportedEvent: when the plan has no known bound.
    """
    checks.positive(epsilon=epsilon, delta=delta)
    renyi, best = RdpAccountant(relation, unit), PldAccountant(relation, unit, grid=grid)

    def proven(noise: float) -> bool:
        # One accountant per noise level: what it remembers is of no use to the next.
        return dataclasses.replace(best, _cache={}).compose(plan(noise)).upper(delta) <= epsilon

    def roughly(noise: float) -> bool:
        return dataclasses.replace(renyi, _cache={}).compose(plan(noise)).upper(delta) <= epsilon

    # The Renyi accountant is fast and never below the accountant of record: a good noise to start from.
    high = 1.0
    while not roughly(high):
        high *= 2
        if high > _LARGEST:
            raise checks.UserError(
                f"Expected epsilon={epsilon!r} at delta={delta!r} to be met by some noise; even {_LARGEST:g} times the "
                "clipping norm is not enough. Raise epsilon, lower the rounds, or drop what costs by itself."
            )
    low = high / 2
    while low > _SMALLEST and roughly(low):
        low, high = low / 2, low
    low, high = _bisect(roughly, low, high, 0.05)
    low = high / 1.2
    while low > _SMALLEST and proven(low):
        low, high = low / 1.2, low
    _, high = _bisect(proven, low, high, _PRECISION)
    event = plan(max(high, _SMALLEST))
    bound = best.compose(event).epsilon(delta)
    if bound.upper is None or bound.upper > epsilon:
        raise checks.UserError(
            f"No noise was found whose epsilon is proven to be at most {epsilon!r} at delta={delta!r}; the nearest is "
            f"{bound.upper:.5g}. Change epsilon, delta, the rate or the rounds."
        )
    return Calibration(max(high, _SMALLEST), bound, event)


def _bisect(enough: Callable[[float], bool], low: float, high: float, precision: float) -> tuple[float, float]:
    """Return (low, high) with `enough(high)` and not `enough(low)`, closer than `precision` relatively."""
    while high > low * (1 + precision):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low, high


def update_noise_multiplier(noise_multiplier: float, count_noise: float) -> float:
    """Return the noise on the clipped sum that leaves room for a noisy count of small updates at equal total cost.

    The count sums centred indicators (b - 1/2), so one unit moves it by at most 1/2; `count_noise` is the standard
    deviation of its noise, in units of one count. Both together cost what one Gaussian release with `noise_multiplier`
    costs (Andrew, Thakkar, McMahan and Ramaswamy, "Differentially Private Learning with Adaptive Clipping", NeurIPS
    2021, theorem 1).

    Raises:
        UserError: if count_noise is not above noise_multiplier / 2: the count alone would spend everything.

    >>> round(update_noise_multiplier(1.0, 5.0), 6)
    1.005038
    """
    checks.positive(noise_multiplier=noise_multiplier, count_noise=count_noise)
    left = noise_multiplier**-2 - (2 * count_noise) ** -2
    if left <= 0:
        raise checks.UserError(
            f"Expected count_noise={count_noise!r} above noise_multiplier / 2 = {noise_multiplier / 2:g}; raise it."
        )
    return float(left**-0.5)


@dataclasses.dataclass(frozen=True)
class NoiseToSignal:
    """How loud the noise of one round is.

    Attributes:
        ratio: norm of the noise / norm of the sum if every expected unit pushed by C in the same direction.
        warning: what it means and what to do, where the ratio is above 1; else None.
    """

    ratio: float
    warning: str | None


def noise_to_signal(noise_multiplier: float, parameters: int, expected_cohort: float) -> NoiseToSignal:
    """Return noise norm over largest possible signal of one round: z * sqrt(d) / (q N); the clipping norm cancels.

    Args:
        noise_multiplier: z, of the noise on the sum.
        parameters: d, how many numbers one update has.
        expected_cohort: q N, or the fixed cohort's size.

    >>> noise_to_signal(1.0, 10_000, 200).ratio, noise_to_signal(1.0, 10_000, 200).warning
    (0.5, None)
    """
    checks.positive(noise_multiplier=noise_multiplier, parameters=parameters, expected_cohort=expected_cohort)
    ratio = noise_multiplier * math.sqrt(parameters) / expected_cohort
    if ratio <= 1:
        return NoiseToSignal(ratio, None)
    fit = int((expected_cohort / noise_multiplier) ** 2)
    remedies = [
        f"expect {math.ceil(noise_multiplier * math.sqrt(parameters)):,} or more clients a round",
        f"train at most {fit:,} parameters (train.trainable) from a public warm start" if fit else "",
        "or allow a larger epsilon",
    ]
    warning = (
        f"The noise of one round is {ratio:.3g} times as long as the largest possible sum of updates ({parameters:,} "
        f"parameters, {expected_cohort:g} clients expected, noise multiplier {noise_multiplier:.4g}): "
        f"{'little' if ratio < 3 else 'nothing'} will be learnt. Remedy: {', '.join(filter(None, remedies))}."
    )
    return NoiseToSignal(ratio, warning)
