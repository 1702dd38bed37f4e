"""From a feature map back to the picture: the network that somebody who holds protected features would train."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _ir

_CALM = 0.1  # factor on the last convolution's first values: tanh starts in its linear part


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Convolutional decoder: blocks at the map's own size, doubling blocks up to the image's, 3x3 convolution, tanh.

    A block is a 3x3 convolution, GroupNorm and ReLU; a doubling block repeats every pixel 2x2 first and halves the
    channels. No convolution has a bias. The first norm removes the scale of the map, so it may have any.

    Attributes:
        width: channels of the blocks at the map's size; a multiple of 8.
        blocks: blocks at the map's size, 1 or more.

    >>> network = Decoder(width=8, blocks=1).build(4, (6, 6), (12, 12), torch.Generator().manual_seed(1))
    >>> network(torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(2))).shape
    torch.Size([2, 3, 12, 12])
    """

    width: int = 16
    blocks: int = 1

    def __post_init__(self) -> None:
        checks.multiple_of(_ir.GROUP_CHANNELS, width=self.width)
        checks.positive(blocks=self.blocks)

    def skeleton(self, in_channels: int, doublings: int) -> nn.Module:
        """Return the network without memory for its parameters (meta device), for values that are already known."""
        with torch.device("meta"):
            return _DecoderNetwork(self, in_channels, doublings)

    def build(
        self, in_channels: int, map_size: tuple[int, int], image_size: tuple[int, int], generator: torch.Generator
    ) -> nn.Module:
        """Return a network from (B, in_channels, *map_size) float32 to images (B, 3, *image_size) in [-1, 1].

        Raises:
            UserError: unless the image is the map doubled a whole number of times, at least not at all.
        """
        checks.positive(in_channels=in_channels)
        doublings = _doublings(map_size, image_size)
        network = self.skeleton(in_channels, doublings)
        _ir.initialised(network, generator)
        with torch.no_grad():
            cast(_DecoderNetwork, network).last.weight.mul_(_CALM)
        return network


def _doublings(map_size: tuple[int, int], image_size: tuple[int, int]) -> int:
    doublings = max(0, round(math.log2(image_size[0] / map_size[0])))
    if tuple(side << doublings for side in map_size) != tuple(image_size):
        raise checks.UserError(
            f"Expected image_size={image_size!r} to be map_size={map_size!r} times a power of two; choose another map."
        )
    return doublings


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, doubles: bool) -> None:
        super().__init__()
        self.doubles = doubles
        self.conv = nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False)
        self.norm = _ir.group_norm(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.doubles:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return functional.relu(self.norm(self.conv(x)))


class _DecoderNetwork(nn.Module):
    def __init__(self, decoder: Decoder, in_channels: int, doublings: int) -> None:
        super().__init__()
        width = decoder.width
        blocks = [_Block(in_channels if k == 0 else width, width, doubles=False) for k in range(decoder.blocks)]
        for _ in range(doublings):
            narrow = max(_ir.GROUP_CHANNELS, width // 2 // _ir.GROUP_CHANNELS * _ir.GROUP_CHANNELS)
            blocks.append(_Block(width, narrow, doubles=True))
            width = narrow
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Conv2d(width, 3, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(self.blocks(x)))
