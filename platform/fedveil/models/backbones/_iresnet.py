"""IResNet with GroupNorm at any depth, the standard family of backbones in face recognition."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal, cast

import torch
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _ir

Stages = tuple[tuple[int, int], ...]
"""(channels, units) of each stage; the first unit of a stage halves the side."""

Kind = Literal["group", "affine"]
"""What stands where the published network has BatchNorm; "affine" is BatchNorm with frozen statistics."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What the IResNet files share; a file adds its `stages`."""

    stages: ClassVar[Stages]

    embedding: int = 512
    norm: Kind = "group"

    def __post_init__(self) -> None:
        checks.within(1, 4096, embedding=self.embedding)
        checks.one_of(("group", "affine"), norm=self.norm)

    def build(self, in_channels: int, size: tuple[int, int], generator: torch.Generator) -> nn.Module:
        """Return a network from (B, in_channels, H, W) float32 to (B, embedding), not normalised.

        Raises:
            UserError: if a side of `size` is not a multiple of 8 or is below 16.
        """
        _ir.check_build(in_channels, size, divisor=8, smallest=16)
        with torch.device("meta"):
            network = IResNet(self.stages, self.embedding, in_channels, size, self.norm)
        _ir.initialised(network, generator)
        return network


class IResNet(nn.Module):
    """(B, in_channels, H, W) to (B, embedding), not normalised; `stages` holds (channels, units) of each stage.

    Network of ArcFace (https://arxiv.org/abs/1801.07698) with two departures: GroupNorm replaces every BatchNorm, the
    last one included (one group over the embedding, no scale or shift: BatchNorm couples the images of a client), and
    there is no dropout, because its draws would not be repeatable from the public seed.

    With `norm="affine"` a scale and a shift stand for every BatchNorm, so that a public checkpoint computes what it did
    (`models.published`). Nothing holds such a network's signal: it starts from a file, not from random values.

    Attributes:
        stages: as given.
        kind: as given in `norm`.
    """

    def __init__(
        self, stages: Stages, embedding: int, in_channels: int, size: tuple[int, int], norm: Kind = "group"
    ) -> None:
        super().__init__()
        self.stages, self.kind = stages, norm
        make: _ir.Norm = _ir.group_norm if norm == "group" else _ir.Affine
        width = stages[0][0]
        self.stem = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.norm = make(width)
        self.act = nn.PReLU(width)
        units = []
        for channels, count in stages:
            for unit in range(count):
                units.append(_ir.IRUnit(width, channels, 1 if unit else 2, published=True, norm=make))
                width = channels
        self.units = nn.Sequential(*units)
        self.norm_map = make(width)
        self.embed = nn.Linear(width * math.prod(math.ceil(side / 2 ** len(stages)) for side in size), embedding)
        last = nn.GroupNorm(1, embedding, affine=False) if norm == "group" else _ir.Affine(embedding)
        self.norm_embedding: nn.Module = last

    def forward(self, x: torch.Tensor, after: _ir.Hook | None = None) -> torch.Tensor:
        """Return (B, embedding); `after` is applied to what each stage puts out."""
        units = iter(self.units)
        stages = [[next(units) for _ in range(count)] for _, count in self.stages]
        x = _ir.norm_act(self.norm, self.act, _ir.run_stem(self.stem, x))
        x = self.norm_map(_ir.run_stages(stages, x, after))
        return cast(torch.Tensor, self.norm_embedding(self.embed(x.flatten(1))))
