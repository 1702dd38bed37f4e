"""What the methods on the published frequency layout share: the scales of its channels, learnt on public faces."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedveil import frequency

_SMALLEST = 1e-3  # grey levels; a channel that is zero on all public faces is not blown up


def rms(images: torch.Tensor, channels: Sequence[int] | None) -> torch.Tensor:
    """Return the root mean square of each channel over uint8 images (N, 3, H, W), (3 * len(channels),) float32."""
    count = 3 * (64 if channels is None else len(channels))
    total = torch.zeros(count, dtype=torch.float64, device=images.device)
    for image in torch.split(images, 1):
        total += frequency.upsampled_dct(image, channels)[0].double().square().mean((1, 2))
    return (total / max(len(images), 1)).sqrt().clamp(min=_SMALLEST).float()


def scales(images: torch.Tensor, channels: Sequence[int] | None) -> torch.Tensor:
    """Return what a recogniser's channels are divided by, (3 * len(channels),): half-way to equal size.

    Channels of this transform differ a thousandfold. As they come, a network sees the largest alone; at equal size it
    sees mostly noise, because real faces say little at high frequencies. So they are divided by the root of their root
    mean square, and by one constant that makes the whole about one: of the three, what learnt best on real faces.
    """
    found = rms(images, channels)
    return (found * found.mean()).sqrt()
