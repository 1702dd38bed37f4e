"""The shape of a budget: logits become positive weights of mean 1 that no cap is exceeded by."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

FLOOR = 1e-4
"""Smallest weight, as a fraction of the mean: no coefficient's noise becomes infinite."""


def weights_of(logits: torch.Tensor, cap: float) -> torch.Tensor:
    """Return K weights in [1e-4, cap] with mean 1 from logits of any shape; K is their number.

    K * softmax(logits), mixed with a floor, then capped by water-filling: entries over the cap are set to it and all
    others grow by one common factor until the mean is 1 again, which may lift further entries to the cap. So the sum is
    K (to rounding), order is kept, and equal logits give 1 everywhere. Differentiable almost everywhere.

    Args:
        logits: any floats; their differences matter.
        cap: largest weight in units of the mean, at least 1.
    """
    if cap <= 1.0:
        return torch.ones_like(logits)
    count = logits.numel()
    free = (1.0 - FLOOR) * count * torch.softmax(logits.flatten(), 0) + FLOOR
    over = torch.zeros(count, dtype=torch.bool, device=logits.device)
    while True:
        factor = (count - cap * int(over.sum())) / torch.where(over, 0.0, free).sum()
        grown = torch.where(over, cap, free * factor)
        added = grown > cap
        if not bool(added.any()):
            return grown.view(logits.shape)
        over = over | added


def picture(weights: torch.Tensor, channels: tuple[int, ...]) -> NDArray[np.float64]:
    """Return (3, 8, 8) mean weights per colour and frequency (u, v); NaN where nothing is released."""
    result = np.full((3, 64), np.nan)
    result[:, list(channels)] = weights.detach().double().mean((1, 2)).view(3, len(channels)).numpy()
    return result.reshape(3, 8, 8)
