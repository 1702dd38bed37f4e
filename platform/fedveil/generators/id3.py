"""ID3: identity-preserving and diverse synthetic faces by conditional diffusion (Li et al., NeurIPS 2024)."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from fedveil import checks
from fedveil.generators import _attributes as attributes
from fedveil.generators._denoiser import GROUPS, Denoiser, initialised
from fedveil.generators._network import Generator


@dataclasses.dataclass(frozen=True)
class ID3:
    """ID3: a diffusion model of faces at a given identity, which a run trains in the recogniser's place.

    It is the conditional diffusion model of ID3 (https://arxiv.org/abs/2409.17576). Conditions are the identity
    y = phi(x) of a frozen recogniser and attributes a = psi(x). With the adjusted conditional density

        p~(x | y, a)  ~  p_theta(x | y, a) exp(kappa <y, phi(x)>),

    whose second factor is a von Mises-Fisher density of phi(x) around y but for a constant, -log p~ is bounded by

        E_t |eps - eps_theta(x_t, t, y, a)|^2 + lambda E |x - x^0(x_1)|^2 - kappa E_t v_t <y, phi(x^0(x_t))> + const:

    the diffusion bound with its first step, and phi of the one-step estimate x^0 = (x_t - sqrt(1 - abar_t) eps_theta) /
    sqrt(abar_t), weighted by v_t = abar_t because at great noise x^0 means nothing. Squares are means over pixels. The
    first step is visited with probability `share` and weighed by its inverse, so one pass is unbiased for both terms.

    Without noise in training (`privacy`) it protects nobody whose faces it learns from: epsilon is infinite.

    Attributes:
        width: channels of the U-Net's first level, a multiple of 8.
        multipliers: what each level's channels are of `width`; each level has half the side of the one before.
        blocks: residual blocks of a level.
        attention: levels of at most this side attend.
        patch: side of the blocks of pixels that are one place to the U-Net.
        context: width of the layer that reads the conditions.
        times: T, steps of the noise schedule (linear, 1e-4 to 2e-2 at 1000).
        dropout: how often identity and attributes are left out, each by its own coin.
        kappa: weight of the inner product.
        reconstruction: lambda, weight of the first step.
        share: probability of visiting the first step.
        shared: owners' faces may be learnt from without any budget and shown to everybody; epsilon is infinite.
    """

    width: int = 48
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: int = 8
    patch: int = 2
    context: int = 256
    times: int = 1000
    dropout: float = 0.15
    kappa: float = 0.05
    reconstruction: float = 1.0
    share: float = 0.05
    shared: bool = False

    def __post_init__(self) -> None:
        checks.multiple_of(GROUPS, width=self.width)
        checks.within(8, 512, width=self.width)
        checks.within(1, 4096, context=self.context)
        checks.within(1, 8, blocks=self.blocks)
        checks.within(10, 10_000, times=self.times)
        checks.within(0, 100, kappa=self.kappa, reconstruction=self.reconstruction)
        checks.non_negative(attention=self.attention)
        if self.patch not in (1, 2, 4):
            raise checks.UserError(f"Expected patch={self.patch!r} to be 1, 2 or 4.")
        if not 1 <= len(self.multipliers) <= 5 or not all(1 <= factor <= 8 for factor in self.multipliers):
            raise checks.UserError(f"Expected multipliers={list(self.multipliers)!r}: one to five numbers in 1..8.")
        if not 0 <= self.dropout < 1:
            raise checks.UserError(f"Expected dropout={self.dropout!r} in [0, 1).")
        if not 0 < self.share < 1:
            raise checks.UserError(f"Expected share={self.share!r} in (0, 1).")

    def build(
        self, recogniser: nn.Module, size: tuple[int, int], generator: torch.Generator, dimension: int
    ) -> Generator:
        """Return the untrained generator around a recogniser from pixels (B, 3, H, W) in [-1, 1] to (B, dimension).

        Raises:
            fedveil.checks.UserError: a size that its levels cannot halve.
        """
        divisor = self.patch * 2 ** (len(self.multipliers) - 1)
        if any(side % divisor or side < 4 * self.patch for side in size):
            raise checks.UserError(
                f"Expected data.size={size[0]} to be a multiple of {divisor}: generator.multipliers="
                f"{list(self.multipliers)} halve the picture {len(self.multipliers) - 1} times, patch={self.patch}."
            )
        with torch.device("meta"):
            denoiser = Denoiser(
                size, dimension, len(attributes.NAMES), self.width, self.multipliers, self.blocks, self.attention,
                self.patch, self.context,
            )  # fmt: skip
        initialised(denoiser, generator)
        return Generator(
            denoiser, recogniser, size, dimension, self.times, self.dropout, self.kappa, self.reconstruction,
            self.share,
        )  # fmt: skip


METHOD = ID3
