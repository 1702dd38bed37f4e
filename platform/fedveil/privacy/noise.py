"""Laplace and Gaussian noise from a secret stream, of two kinds: `real` and `grid`.

**real**: inverse distribution functions of float64 uniforms. Its limits, which a ledger states with every claim: a draw
takes one of 2^52 values, so tails end at 36 Laplace scales or 8.2 standard deviations, and the low bits of `value +
noise` depend on the value (Mironov, "On significance of the least significant bits for differential privacy", CCS
2012). The guarantees elsewhere are those of exact real noise. What holds: the uniforms are cryptographic and
independent, no draw is infinite or zero, and each value consumes exactly one uniform.

**grid**: exact draws of rounded noise on values that lie on a public grid; the guarantees hold for what a computer
does. `grid` has the proof, `exact` the draws.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedveil import blocks, checks
from fedveil.privacy import grid
from fedveil.privacy.settling import Law
from fedveil.randomness import SecretStream

VERSION = 1
"""Of what a stream's numbers become: a change that turns the same stream into other noise must raise it."""
GRID_VERSION = 1
"""The same of noise on a grid: its step, its rounding and its draws."""

Kind = Literal["real", "grid"]


def version(kind: Kind) -> str | int:
    """Return what a draw depends on beside its stream and scale: part of a kept copy's name."""
    checks.one_of(("real", "grid"), **{"privacy.noise": kind})
    return VERSION if kind == "real" else f"grid {GRID_VERSION}"


class Noise:
    """Noise of one kind, law and scale, for float64 values in the host's memory.

    A mechanism does two things with it: it takes every unit's clipped contribution through `addend`, whatever else it
    does with it, and the sum, or the one value, through `added`.

    >>> noise = Noise("grid", "gaussian", 2.0)
    >>> clipped = [torch.tensor([0.25, -0.5]).double(), torch.tensor([0.1, 0.2]).double()]
    >>> noise.added(SecretStream(bytes(32)), sum(noise.addend(one) for one in clipped)).shape
    torch.Size([2])
    """

    def __init__(self, kind: Kind, law: Law, scale: torch.Tensor | float) -> None:
        """Prepare noise.

        Args:
            kind: "real" or "grid".
            law: "gaussian" or "laplace".
            scale: standard deviation(s), or Laplace scale(s) b; public constants, broadcast to the values.

        Raises:
            UserError: unless the kind is known and every scale is positive and finite.
        """
        version(kind)
        self._law: Law = law
        self._scale = torch.as_tensor(scale, dtype=torch.float64)
        self.grid = grid.Grid(self._scale) if kind == "grid" else None

    def addend(self, values: torch.Tensor) -> torch.Tensor:
        """Return what a unit contributes: its values, on a grid cut towards zero to it."""
        return values if self.grid is None else self.grid.cut(values)

    def check_sum(self, addends: int, bound: float) -> None:
        """Refuse public constants with which a sum of `addends` of at most `bound` might not be exact on a grid."""
        if self.grid is not None:
            self.grid.check_sum(addends, bound)

    def added(self, stream: SecretStream, values: torch.Tensor) -> torch.Tensor:
        """Return the values with independent noise, float64.

        Raises:
            ValueError: on a grid, for values that did not go through `addend`.
        """
        if self.grid is not None:
            return self.grid.added(self._law, stream, values)
        # Names of this module, so that tests can listen at the sampler.
        draw = gaussian if self._law == "gaussian" else laplace
        return values + draw(stream, self._scale.expand(values.shape))

    def add_to(self, stream: SecretStream, values: torch.Tensor) -> None:
        """Add to a vector (n,), float64 and in place, what `added` adds: the same bits, a small part at a time.

        Raises:
            ValueError: on a grid, for values that did not go through `addend`; they are as they were.
        """
        if self.grid is not None:
            self.grid.add_to(self._law, stream, values)
            return
        draw = gaussian if self._law == "gaussian" else laplace
        scales = self._scale.expand(values.shape)
        for span in blocks.spans(values.numel()):
            values[span] += draw(stream, scales[span])


def _scale(scale: torch.Tensor) -> torch.Tensor:
    scales = scale.to(torch.float64)
    if not bool((torch.isfinite(scales) & (scales > 0)).all()):
        raise checks.UserError("Expected every noise scale to be positive and finite; check the budget and the shape.")
    return scales


def laplace(stream: SecretStream, scale: torch.Tensor) -> torch.Tensor:
    """Return independent zero-mean Laplace noise, float64, of the shape and with the scales b of `scale`.

    The density of an element is exp(-|x| / b) / (2 b), its standard deviation sqrt(2) b.

    Raises:
        UserError: unless every scale is positive and finite.

    >>> from fedveil.randomness import SecretStream
    >>> laplace(SecretStream(bytes(32)), torch.full((2, 3), 10.0)).shape
    torch.Size([2, 3])
    """
    scales = _scale(scale)
    centred = torch.from_numpy(stream.uniform(scales.numel()) - 0.5).view(scales.shape)
    # 1 - 2|u - 1/2| is exact and at least 2^-52; log1p keeps full precision for the many draws near zero.
    return -scales * centred.sign() * torch.log1p(-2.0 * centred.abs())


def gaussian(stream: SecretStream, sigma: torch.Tensor) -> torch.Tensor:
    """Return independent zero-mean Gaussian noise, float64, of the shape and with the standard deviations `sigma`.

    Raises:
        UserError: unless every standard deviation is positive and finite.
    """
    sigmas = _scale(sigma)
    uniform = torch.from_numpy(stream.uniform(sigmas.numel())).view(sigmas.shape)
    draw: torch.Tensor = torch.special.ndtri(uniform)
    return sigmas * draw
