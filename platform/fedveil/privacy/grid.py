"""A public grid for values and noise, on which a guarantee in real arithmetic holds in a computer's.

Noise that is computed in floating point leaks through its low bits (Mironov, CCS 2012; for Gaussian noise Jin et al.,
"Are we there yet? Timing and floating-point attacks on differential privacy systems", IEEE S&P 2022). Here nothing is
rounded that a guarantee speaks of:

* The grid's `step` g is a power of two and a function of the noise's scale alone, hence public. Multiples of g below
  2^53 g are exact in float64, and so are their sums, in any order.
* Values are cut **towards zero**, coordinate by coordinate. No coordinate grows, so no weighted norm does, and what was
  in a ball of radius C stays there: one unit replaced by nothing moves a sum by at most C, by another at most 2 C.
* The noise is round(N / g) g with N continuous, of a scale s = steps * g that is *not below* the accounted one, and it
  is drawn exactly (`exact`).

**Why this costs nothing.** Let v be a sum of such values and round_g the rounding to the nearest multiple of g. As v is
a multiple of g, v + round_g(N) = round_g(v + N). What is released is a function of v + N, the continuous mechanism with
real noise of scale s on a query of sensitivity C: post-processing. So every bound for continuous Gaussian or Laplace
noise holds as it is, sampled cohorts, several dimensions and adaptive rounds included. Everything after that is
post-processing too: float64 for a sum that needs more than 53 bits, float32, the division by the cohort.

**Why not the discrete Gaussian** (Canonne, Kamath and Steinke, NeurIPS 2020). It is an alternative with an exact
sampler. But its privacy loss is another function of the value than the continuous one's: for sampled cohorts and
vectors it has bounds of its own, which no accountant here proves, and sums of several draws are not in its family.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import blocks, checks
from fedveil.privacy import exact
from fedveil.privacy.settling import Law
from fedveil.randomness import SecretStream

BITS = 30
"""The scale is 2^29 to 2^30 steps: a coordinate loses less than 2e-9 of the noise's scale, which rises by as much."""

_WIDENED = 1.0 + 2.0**-40  # a scale comes from a few float64 operations, each off by at most 2^-53
_EXACT = 2.0**53
_RANGE = 2.0**900
_BESIDE = "Noise on a grid protects values on the grid: take each unit's through `addend` first."


class Grid:
    """The grid of noise of one scale, or of one scale for each value.

    Attributes:
        step: g, a power of two, float64: scale / step is in [2^29, 2^30).
        steps: how many steps the drawn noise's scale has, int64: the least whole number that is not below scale / step,
            after the scale is widened by 2^-40 for the rounding with which it was computed.

    >>> [(float(one.step) * 2.0**30, float(one.steps) / 2.0**30) for one in map(Grid, (1.0, 6.0))]
    [(2.0, 0.500000...), (8.0, 0.75000...)]
    """

    def __init__(self, scale: torch.Tensor | float) -> None:
        scales = torch.as_tensor(scale, dtype=torch.float64)
        if not bool((torch.isfinite(scales) & (scales >= 1 / _RANGE) & (scales <= _RANGE)).all()):
            raise checks.UserError(
                "Expected every noise scale to be positive and finite; check the budget and the shape."
            )
        part, exponent = torch.frexp(scales)
        self.steps = torch.ceil(part * (2.0**BITS * _WIDENED)).to(torch.int64)
        self.step = torch.ldexp(torch.ones_like(scales), exponent - BITS)
        self._per_unit = torch.ldexp(torch.ones_like(scales), BITS - exponent)

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        """Return float64 values cut towards zero to multiples of the step: no size grows.

        >>> (Grid(2.0**29).cut(torch.tensor([1.0, -2.0, 3.0, 4.0]) / 3)).tolist()
        [0.0, -0.0, 1.0, 1.0]
        """
        return (values.to(torch.float64) * self._per_unit).trunc_().mul_(self.step)

    def added(self, law: Law, stream: SecretStream, values: torch.Tensor) -> torch.Tensor:
        """Return values that are multiples of the step, with independent noise round(N / g) g.

        Raises:
            ValueError: for other values.
        """
        whole = values * self._per_unit
        if not torch.equal(whole, whole.trunc()):
            raise ValueError(_BESIDE)
        counts = np.broadcast_to(self.steps.numpy(), tuple(values.shape)).reshape(-1)
        drawn = torch.from_numpy(exact.rounded(law, stream, counts)).view(values.shape)
        return whole.add_(drawn).mul_(self.step)

    def add_to(self, law: Law, stream: SecretStream, values: torch.Tensor) -> None:
        """Add to a vector (n,), float64 and in place, what `added` adds: the same bits, a small part at a time.

        Raises:
            ValueError: for values that are no multiples of the step; they are as they were.
        """
        units, step = self._per_unit.expand(values.shape), self.step.expand(values.shape)
        for span in blocks.spans(values.numel()):
            whole = values[span] * units[span]
            if not torch.equal(whole, whole.trunc()):
                raise ValueError(_BESIDE)
        for span in blocks.spans(values.numel()):
            values[span] *= units[span]
        numbers = values.numpy()

        def add(where: exact.Where, drawn: NDArray[np.int64]) -> None:
            numbers[where] += drawn

        exact.scattered(law, stream, np.broadcast_to(self.steps.numpy(), tuple(values.shape)), add)
        for span in blocks.spans(values.numel()):
            values[span] *= step[span]

    def check_sum(self, addends: int, bound: float) -> None:
        """Refuse a sum of `addends` values of at most `bound` that may need more than float64's 53 bits.

        Asked of public constants, before any value is seen.

        Raises:
            UserError: with so little noise.
        """
        if addends * bound >= _EXACT * float(self.step):
            scale = float(self.step * self.steps)
            raise checks.UserError(
                f"Expected privacy.noise='grid' with noise of at least {addends * bound * 2.0**BITS / _EXACT:.3g} on a "
                f"sum of {addends:,} values of at most {bound:g}, got {scale:.3g}: the sum would need more than 53 "
                "bits. Raise the noise (privacy.client.noise_multiplier); so little protects nobody."
            )


def sensitivity_with_slack(clip: float, dimension: int, step: float, error: float = 0.0) -> float:
    """Return how far a sum that is cut *as a whole* moves in L2 when one unit of norm at most `clip` is left out.

    For sums whose addends nobody sees one by one: gradients that one matrix product clips and sums. Cutting two sums
    can part them by one step a coordinate, sqrt(dimension) * step in all, and each of them may be off by `error`.

    Args:
        clip: largest L2 norm of one unit's contribution.
        dimension: numbers in the vector.
        step: of the grid.
        error: a *proven* bound on the L2 distance of a computed sum from the exact one, for any data.
    """
    checks.positive(clip=clip, dimension=dimension, step=step)
    checks.non_negative(error=error)
    return (clip + math.sqrt(dimension) * step + 2 * error) * _WIDENED


def float32_sum_error(clip: float, addends: int) -> float:
    """Return a bound on the L2 error of `addends` float32 vectors of norm at most `clip`, summed in float32, any order.

    n - 1 additions are off by at most (n - 1) u / (1 - (n - 1) u) of the sum of sizes, u = 2^-24 (Higham, "Accuracy and
    stability of numerical algorithms", 2002, section 4.2). It says nothing of the rounding *inside* one addend: a
    per-image gradient is a sum over places itself, and cancellation there has no bound in terms of its norm.
    """
    checks.positive(clip=clip, addends=addends)
    unit = (addends - 1) * 2.0**-24
    if unit >= 0.5:
        raise checks.UserError(f"Expected addends={addends!r} below 2^23 for a bound on a float32 sum; sum in float64.")
    return unit / (1 - unit) * addends * clip


def scale_of_whole_sum(noise_multiplier: float, clip: float, dimension: int, error: float = 0.0) -> float:
    """Return the noise scale for a sum that is cut as a whole: `noise_multiplier` times its sensitivity with slack.

    Such a sum goes through `cut` once, with the returned scale; other arguments as in `sensitivity_with_slack`.
    """
    checks.positive(noise_multiplier=noise_multiplier)
    share = noise_multiplier * math.sqrt(dimension) * 2.0 ** (1 - BITS)  # of the scale, that the steps take
    if share > 0.5:
        raise checks.UserError(
            f"Expected noise_multiplier={noise_multiplier!r} times the root of dimension={dimension!r} below "
            f"{2.0 ** (BITS - 2):g}: the grid would be too coarse for so many numbers."
        )
    exact_sum = sensitivity_with_slack(clip, dimension, math.ulp(0.0), error)
    return noise_multiplier * exact_sum / (1 - share) * _WIDENED
