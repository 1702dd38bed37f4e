"""IResNet-18 with GroupNorm, the small standard backbone of face recognition."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import torch
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _ir

_STAGES = ((64, 2), (128, 2), (256, 2), (512, 2))  # (channels, units); the first unit of a stage halves the side


@dataclasses.dataclass(frozen=True)
class IResNet18:
    """IResNet-18 with GroupNorm: 64-128-256-512 channels, two IR units each; 24 M parameters at 112 px.

    Network of ArcFace (https://arxiv.org/abs/1801.07698) with two departures: GroupNorm replaces every BatchNorm, the
    last one included (one group over the embedding, no scale or shift: BatchNorm couples the images of a client), and
    there is no dropout, because its draws would not be repeatable from the public seed.

    Attributes:
        embedding: length of the embedding.

    >>> network = IResNet18(embedding=32).build(1, (16, 16), torch.Generator().manual_seed(1))
    >>> network(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 32])
    """

    embedding: int = 512

    def __post_init__(self) -> None:
        checks.positive(embedding=self.embedding)

    def build(self, in_channels: int, size: tuple[int, int], generator: torch.Generator) -> nn.Module:
        """Return a network from (B, in_channels, H, W) float32 to (B, embedding), not normalised.

        Raises:
            UserError: if a side of `size` is not a multiple of 16.
        """
        _ir.check_build(in_channels, size, divisor=16, smallest=16)
        with torch.device("meta"):
            network = _IResNet(self.embedding, in_channels, size)
        _ir.initialised(network, generator)
        return network


class _IResNet(nn.Module):
    def __init__(self, embedding: int, in_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        width = _STAGES[0][0]
        self.stem = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.norm = _ir.group_norm(width)
        self.act = nn.PReLU(width)
        units = []
        for channels, count in _STAGES:
            for unit in range(count):
                units.append(_ir.IRUnit(width, channels, 1 if unit else 2, published=True))
                width = channels
        self.units = nn.Sequential(*units)
        self.norm_map = _ir.group_norm(width)
        self.embed = nn.Linear(width * math.prod(side // 2 ** len(_STAGES) for side in size), embedding)
        self.norm_embedding = nn.GroupNorm(1, embedding, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.norm_map(self.units(self.act(self.norm(self.stem(x)))))
        return cast(torch.Tensor, self.norm_embedding(self.embed(x.flatten(1))))


METHOD = IResNet18
