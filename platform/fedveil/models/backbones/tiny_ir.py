"""A small IR network for 16-64 px faces on one CPU thread."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Literal, cast

import torch
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _ir


@dataclasses.dataclass(frozen=True)
class TinyIR:
    """Tiny IR network: strided stem and one IR unit per stage, for CPUs and tests.

    The stem (3x3, stride 2, so that no convolution runs at full size) has `width` channels, stage k has
    `width * 2^k`, and each stage halves the side. Every input size that is a multiple of 8 and at least 16 is accepted.
    The input is expected at about unit scale; there is no first norm that would hide its amplitude.

    Attributes:
        width: channels of the stem; a multiple of 8.
        stages: IR units, each at half the side and twice the channels of the one before; 1 to 4.
        embedding: length of the embedding.
        tail: "flatten" keeps where in the face a feature was, "mean" averages it away and has fewer parameters.

    >>> network = TinyIR(width=8, embedding=32).build(3, (32, 32), torch.Generator().manual_seed(1))
    >>> network(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 32])
    """

    width: int = 16
    stages: int = 2
    embedding: int = 64
    tail: Literal["flatten", "mean"] = "flatten"

    def __post_init__(self) -> None:
        checks.multiple_of(_ir.GROUP_CHANNELS, width=self.width)
        checks.positive(stages=self.stages)
        checks.within(1, 4096, width=self.width, embedding=self.embedding)
        if self.stages > 4:
            raise checks.UserError(
                f"Expected stages={self.stages!r} <= 4: after that no pixel is left of a small face."
            )
        checks.one_of(("flatten", "mean"), tail=self.tail)

    def build(self, in_channels: int, size: tuple[int, int], generator: torch.Generator) -> nn.Module:
        """Return a network from (B, in_channels, H, W) float32 to (B, embedding), not normalised.

        Raises:
            UserError: if a side of `size` is not a multiple of 8 or is below 16.
        """
        _ir.check_build(in_channels, size, divisor=8, smallest=16)
        with torch.device("meta"):
            network = _TinyNetwork(self, in_channels, size)
        _ir.initialised(network, generator)
        return network


class _TinyNetwork(nn.Module):
    def __init__(self, model: TinyIR, in_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, model.width, 3, 2, 1, bias=False)
        self.norm = _ir.group_norm(model.width)
        self.act = nn.PReLU(model.width)
        widths = [model.width * 2**k for k in range(model.stages + 1)]
        units = [_ir.IRUnit(a, b, 2, published=False) for a, b in itertools.pairwise(widths)]
        self.units = nn.Sequential(*units)
        sides = (math.ceil(side / 2 ** (model.stages + 1)) for side in size)
        self.flatten = model.tail == "flatten"
        self.embed = nn.Linear(widths[-1] * (math.prod(sides) if self.flatten else 1), model.embedding)

    def forward(self, x: torch.Tensor, after: _ir.Hook | None = None) -> torch.Tensor:
        x = _ir.norm_act(self.norm, self.act, _ir.run_stem(self.stem, x))
        x = _ir.run_stages([[unit] for unit in self.units], x, after)
        return cast(torch.Tensor, self.embed(x.flatten(1) if self.flatten else x.mean((2, 3))))


METHOD = TinyIR
