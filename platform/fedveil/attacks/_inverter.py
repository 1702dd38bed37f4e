"""The network that draws the picture a representation was made of."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil.models import unet

_SAMPLE = 256
_SMALLEST = 1e-6


class Inverter(nn.Module):
    """Standardised channels, a linear lift to the picture's size, a U-Net; it starts at the attacker's mean face.

    The lift is a 1x1 convolution; where the representation is smaller than the picture its channels are dealt out to
    pixels (https://arxiv.org/abs/1609.05158), which for 8x8 block coefficients holds their exact inverse.

    Args:
        sample: (B, C, h, w) representations of the attacker's people, which set each channel's location and scale.
        mean: (3, H, W) his mean face, 0..1.
        width: channels of the U-Net's first level.
        generator: public randomness of the first values.
    """

    location: torch.Tensor
    scale: torch.Tensor
    mean: torch.Tensor

    def __init__(self, sample: torch.Tensor, mean: torch.Tensor, width: int, generator: torch.Generator) -> None:
        super().__init__()
        sample, channels = sample[:_SAMPLE].double().cpu(), int(sample.shape[1])
        scale, location = torch.std_mean(sample, (0, 2, 3), correction=0)
        self.register_buffer("location", location.float().view(-1, 1, 1))
        self.register_buffer("scale", scale.clamp(min=_SMALLEST).float().view(-1, 1, 1))
        self.register_buffer("mean", mean.clone())
        self.factor = max(1, math.ceil(mean.shape[1] / sample.shape[2]), math.ceil(mean.shape[2] / sample.shape[3]))
        lifted = 2 * width
        self.lift = nn.Conv2d(channels, lifted * self.factor**2, 1)
        with torch.no_grad():
            self.lift.weight.normal_(0.0, channels**-0.5, generator=generator)
            self.lift.bias.zero_()  # type: ignore[union-attr]
        self.unet = unet.build(lifted, 3, width, generator)
        with torch.no_grad():
            self.unet.last.weight.zero_()

    def forward(self, representation: torch.Tensor) -> torch.Tensor:
        """Return pictures (B, 3, H, W), about 0..1, of representations (B, C, h, w)."""
        height, width = self.mean.shape[1:]
        x = self.lift((representation - self.location) / self.scale)
        x = functional.pixel_shuffle(x, self.factor)
        if x.shape[2:] != (height, width):
            x = functional.interpolate(x, (height, width), mode="bilinear", antialias=True)
        x = functional.pad(x, (0, -width % unet.DIVISOR, 0, -height % unet.DIVISOR), mode="replicate")
        drawn: torch.Tensor = self.mean + self.unet(x)[:, :, :height, :width]
        return drawn
