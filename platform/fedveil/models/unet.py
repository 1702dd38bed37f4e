"""The U-Net that generates images or their coefficients at the size of its input."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from fedveil import checks

LEVELS = 5
"""Resolutions, each half of the one before."""

DIVISOR = 2 ** (LEVELS - 1)
"""Both sides of the input must be multiples of it; the deepest level of a 16 px input is one pixel."""


class UNet(nn.Module):
    """U-Net (https://arxiv.org/abs/1505.04597) as in the code of MinusFace: five levels, no normalisation.

    Widths are `width` times 1, 2, 4, 8, 16. A level is two 3x3 convolutions with ReLU; halving is a 2x2 maximum,
    doubling a transposed 3x3 convolution of stride 2, after which the level's own output is concatenated; the last
    layer is 1x1 and linear. With 192 channels, width 64 has 34.6 M parameters and width 8 has 0.55 M.

    It has no buffers and no state between calls, and no image of a batch influences another.
    """

    def __init__(self, channels_in: int, channels_out: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(_level(a, b) for a, b in itertools.pairwise([channels_in, *widths]))
        deepest_first = list(itertools.pairwise(reversed(widths)))
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1) for a, b in deepest_first
        )
        self.up = nn.ModuleList(_level(a, b) for a, b in deepest_first)
        self.last = nn.Conv2d(width, channels_out, 1)

    def forward(self, x: torch.Tensor, last: bool = True) -> torch.Tensor:
        """Return (B, channels_out, H, W) of (B, channels_in, H, W); H and W are multiples of 16.

        With `last=False` it is what the last layer, a linear map of each pixel, is fed: (B, width, H, W).
        """
        checks.multiple_of(DIVISOR, height=x.shape[2], width=x.shape[3])
        skipped: list[torch.Tensor] = []
        for level in self.down:
            if skipped:
                x = nn.functional.max_pool2d(x, 2)
            x = level(x)
            skipped.append(x)
        skipped.pop()
        for grow, level in zip(self.grow, self.up, strict=True):
            x = level(torch.cat([skipped.pop(), grow(x)], 1))
        result: torch.Tensor = self.last(x) if last else x
        return result


def _level(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.ReLU(),
    )


def skeleton(channels_in: int, channels_out: int, width: int) -> UNet:
    """Return a U-Net on the meta device: names and shapes of its parameters without their memory."""
    checks.positive(channels_in=channels_in, channels_out=channels_out, width=width)
    with torch.device("meta"):
        return UNet(channels_in, channels_out, width)


@torch.no_grad()
def build(
    channels_in: int, channels_out: int, width: int, generator: torch.Generator, copied: Sequence[int] = ()
) -> UNet:
    """Return a U-Net whose first values come from `generator` alone.

    Kaiming normal by the inputs that reach one output, for ReLU where one follows; biases 0. With `copied`, the network
    starts as the map that copies these channels and puts 0 into all others: each passes the first level as its positive
    and its negative part, past which the last layer starts at zero. Everything stays trainable.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        width: of the first level; at least twice the number of copied channels.
        generator: randomness of the first values.
        copied: channels, of the input and of the output alike, that are copied at the start.

    >>> network = build(3, 3, 4, torch.Generator().manual_seed(1), copied=[2])
    >>> network(torch.tensor([5.0, 6.0, -7.0]).view(1, 3, 1, 1).expand(1, 3, 16, 32))[0, :, 0, 0].tolist()
    [0.0, 0.0, -7.0]
    """
    network = skeleton(channels_in, channels_out, width)
    if 2 * len(copied) > width:
        raise checks.UserError(f"Expected width={width!r} >= {2 * len(copied)}, twice the number of copied channels.")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # A transposed convolution's output sees one kernel entry in stride^2; every other layer here has stride 1.
            fan_in = module.in_channels * math.prod(module.kernel_size) / math.prod(module.stride)
            gain = 1.0 if module is network.last or isinstance(module, nn.ConvTranspose2d) else 2.0
            weight = torch.empty(module.weight.shape, device="cpu")
            weight.normal_(0.0, math.sqrt(gain / fan_in), generator=generator)
            module.weight = nn.Parameter(weight)
            module.bias = nn.Parameter(torch.zeros(module.out_channels, device="cpu"))
    if copied:
        halves = [(channel, sign) for channel in copied for sign in (1.0, -1.0)]
        levels = (network.down[0], network.up[-1])
        first, *later = (layer for level in levels for layer in level.children() if isinstance(layer, nn.Conv2d))
        for half, (channel, sign) in enumerate(halves):
            for layer, source, factor in [(first, channel, sign), *((layer, half, 1.0) for layer in later)]:
                layer.weight[half] = 0.0
                layer.weight[half, source, 1, 1] = factor
        network.last.weight.zero_()
        for half, (channel, sign) in enumerate(halves):
            network.last.weight[channel, half] = sign
    return network
