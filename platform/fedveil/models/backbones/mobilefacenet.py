"""MobileFaceNet with GroupNorm, the small published backbone for phones; also DuetFace's client net."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import cast

import torch
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _ir

# Published rows (expansion, channels, units, stride of the first); between them the depthwise and the last convolution.
_ROWS = ((2, 64, 1, 2), (2, 64, 4, 1), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
_STEM, _LAST = 64, 512


@dataclasses.dataclass(frozen=True)
class MobileFaceNet:
    """MobileFaceNet with GroupNorm: depthwise convolutions, 1.0 M parameters at width 1 and 112 px.

    Network of https://arxiv.org/abs/1804.07573 (its table 1): inverted residual units and, instead of average pooling,
    a depthwise convolution over the whole last map. Two departures: GroupNorm replaces every BatchNorm, and on single
    vectors (after that convolution, and of the embedding) it has one group, because a group of 8 numbers would lose two
    of them; and every input size that is a multiple of 16 is accepted, the last convolution being as large as the map.

    Attributes:
        width: multiplier of every channel count, rounded to multiples of 8; 1 as published, 0.25 is cheap on a CPU.
        embedding: length of the embedding.

    >>> network = MobileFaceNet(width=0.25, embedding=32).build(30, (32, 32), torch.Generator().manual_seed(1))
    >>> network(torch.zeros(2, 30, 32, 32)).shape
    torch.Size([2, 32])
    """

    width: float = 1.0
    embedding: int = 128

    def __post_init__(self) -> None:
        checks.within(0.01, 16, width=self.width)
        checks.within(1, 4096, embedding=self.embedding)

    def build(self, in_channels: int, size: tuple[int, int], generator: torch.Generator) -> MobileFaceModule:
        """Return a network from (B, in_channels, H, W) float32 to (B, embedding), not normalised.

        Raises:
            UserError: if a side of `size` is not a multiple of 16.
        """
        network = self.skeleton(in_channels, size)
        _ir.initialised(network, generator)
        return network

    def skeleton(self, in_channels: int, size: tuple[int, int]) -> MobileFaceModule:
        """Return the network without memory for its parameters (meta device), for values that are already known."""
        _ir.check_build(in_channels, size, divisor=8, smallest=16)
        with torch.device("meta"):
            return MobileFaceModule(self, in_channels, size)


def _block(channels_in: int, channels_out: int, side: int, stride: int, groups: int = 1) -> nn.Sequential:
    """Return convolution, norm, PReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, _ir.group_norm(channels_out), nn.PReLU(channels_out))


class _Unit(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; plus the input where the shape stays (MobileNetV2)."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = expansion * channels_in
        self.expand = _block(channels_in, wide, 1, 1)
        self.depthwise = _block(wide, wide, 3, stride, groups=wide)
        self.project = nn.Conv2d(wide, channels_out, 1, bias=False)
        self.norm = _ir.group_norm(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.project(self.depthwise(self.expand(x))))
        return cast(torch.Tensor, x + inner if self.residual else inner)


class MobileFaceModule(nn.Module):
    """The network: a strided stem, eight body blocks, the depthwise convolution over the whole map, a linear map."""

    def __init__(self, model: MobileFaceNet, in_channels: int, size: tuple[int, int]) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return _ir.GROUP_CHANNELS * max(1, round(channels * model.width / _ir.GROUP_CHANNELS))

        width, last = scaled(_STEM), scaled(_LAST)
        self.stem = _block(in_channels, width, 3, 2)
        blocks: list[nn.Module] = [_block(width, width, 3, 1, groups=width)]
        for expansion, channels, count, stride in _ROWS:
            units = [_Unit(width, scaled(channels), expansion, stride)]
            width = scaled(channels)
            units += [_Unit(width, width, expansion, 1) for _ in range(count - 1)]
            blocks.append(nn.Sequential(*units))
        self.body = nn.Sequential(*blocks, _block(width, last, 1, 1))
        self.whole = nn.Conv2d(last, last, (math.ceil(size[0] / 16), math.ceil(size[1] / 16)), groups=last, bias=False)
        self.norm_whole = nn.GroupNorm(1, last)
        self.embed = nn.Linear(last, model.embedding)
        self.norm_embedding = nn.GroupNorm(1, model.embedding, affine=False)

    def forward(self, x: torch.Tensor, after: _ir.Hook | None = None) -> torch.Tensor:
        """Return (B, embedding); `after` replaces the stages' outputs at 1/2, 1/4, 1/8 and 1/16 of the side."""
        x = self._cut((0, 1, 3, 5, 8), x, after)
        return cast(torch.Tensor, self.norm_embedding(self.embed(self.norm_whole(self.whole(x)).flatten(1))))

    def taps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return what DuetFace's client looks at: the body after blocks 1, 3, 5, 7, counted from 0.

        At width 1 that is 64 channels at 1/4 of the side, 128 at 1/8, 128 and 512 at 1/16.
        """
        kept: list[torch.Tensor] = []

        def keep(output: torch.Tensor) -> torch.Tensor:
            kept.append(output)
            return output

        self._cut((0, 2, 4, 6, 8), x, keep)
        return kept

    def _cut(self, at: tuple[int, ...], x: torch.Tensor, after: _ir.Hook | None) -> torch.Tensor:
        blocks = list(self.body)
        return _ir.run_stages([blocks[a:b] for a, b in itertools.pairwise(at)], self.stem(x), after)


METHOD = MobileFaceNet
