"""Crops and colour jitter of clean pictures, by given numbers: for images of which no noisy copy is kept."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil.frequency import colour


def cropped(images: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a square part of each image (B, 3, H, W), scaled back to the whole size (bilinear).

    Args:
        images: uint8.
        boxes: (B, 3) side, left edge and upper edge as shares of the image, within it.
    """
    side, left, top = torch.from_numpy(boxes).float().unbind(1)
    zero = torch.zeros_like(side)
    rows = [torch.stack([side, zero, 2 * left + side - 1], 1), torch.stack([zero, side, 2 * top + side - 1], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    values = torch.nn.functional.grid_sample(
        torch.from_numpy(images).float(), grid, padding_mode="border", align_corners=False
    )
    return _uint8(values)


def jittered(images: NDArray[np.uint8], factors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return images (B, 3, H, W) with other brightness, contrast about their mean grey, and saturation.

    Args:
        images: uint8.
        factors: (B, 3) of brightness, contrast and saturation; 1 changes nothing.
    """
    brightness, contrast, saturation = torch.from_numpy(factors).float()[:, :, None, None, None].unbind(1)
    values = torch.from_numpy(images).float() * brightness
    middle = _grey(values).mean((2, 3), keepdim=True)
    values = middle + contrast * (values - middle)
    grey = _grey(values)
    return _uint8(grey + saturation * (values - grey))


def _grey(values: torch.Tensor) -> torch.Tensor:
    weights = colour.matrix()[0].to(values)
    return (values * weights[:, None, None]).sum(1, keepdim=True)


def _uint8(values: torch.Tensor) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = values.round().clamp(0, 255).to(torch.uint8).numpy()
    return found
