"""Clipping to a public norm ball: the one step that bounds what any single image can change."""

from __future__ import annotations

import math

import torch

from fedveil import checks

MARGIN = 1e-6
"""Clipped vectors end this fraction inside the ball, so that no later rounding (float32 included) leaves it."""


def weighted_norms(z: torch.Tensor, weights: torch.Tensor, order: int) -> torch.Tensor:
    """Return (B,) float64 norms of `weights * z` over everything but the batch; inf only beyond 1e308.

    Values are divided by the largest one first, so squares neither overflow nor vanish.
    """
    weighted = (z.to(torch.float64) * weights.to(z.device, torch.float64)).abs().flatten(1)
    if weighted.shape[1] == 0:
        return weighted.new_zeros(weighted.shape[0])
    peak = weighted.amax(1, keepdim=True)
    scaled = torch.where(peak > 0, weighted / peak.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    total = scaled.sum(1) if order == 1 else scaled.square().sum(1).sqrt()
    return peak[:, 0] * total.nan_to_num(nan=1.0)


def clip_norm(z: torch.Tensor, weights: torch.Tensor, radius: float, order: int) -> torch.Tensor:
    """Return each image's whole vector, scaled down so that its weighted norm is at most `radius`.

    Guarantee: for *any* input, every row of the result satisfies sum |w z| <= radius (order 1) or
    sqrt(sum (w z)^2) <= radius (order 2), in exact arithmetic and after rounding to float32 (the margin is 1e-6).
    One factor per image, so a row never depends on another row; the direction is kept. Two images are then at most
    2 * radius apart, which is the sensitivity of one replaced image.

    | an image's vector | result |
    |---|---|
    | norm within (1 - 1e-6) * radius | unchanged |
    | larger norm | multiplied by (1 - 1e-6) * radius / norm |
    | all zero | all zero |
    | NaN or infinite entries | these entries become 0 *before* the norm, the rest is clipped as usual |
    | norm beyond the range of float64 | all zero |

    Args:
        z: (B, ...) floats, one vector per image.
        weights: positive, finite, broadcastable to one image's shape.
        radius: positive and finite, in weighted units of z.
        order: 1 for Laplace noise, 2 for Gaussian noise.

    Returns:
        Float64 tensor of the shape of `z`; a new tensor, `z` is not changed.

    Raises:
        UserError: on a bad radius, order or weights.

    >>> clip_norm(torch.tensor([[3.0, 4.0], [0.3, float("nan")]]), torch.ones(2), radius=1.0, order=2).round(decimals=4)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.0000]], dtype=torch.float64)
    """
    checks.positive(radius=radius)
    if order not in (1, 2):
        raise checks.UserError(f"Expected order={order!r} to be 1 (Laplace) or 2 (Gaussian).")
    if not bool((torch.isfinite(weights) & (weights > 0)).all()):
        raise checks.UserError("Expected weights to be positive and finite; a zero weight would hide a coefficient.")
    finite = z.to(torch.float64).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    norms = weighted_norms(finite, weights, order)
    factors = torch.where(norms > radius * (1 - MARGIN), radius * (1 - MARGIN) / norms, 1.0)
    return finite * factors.view(-1, *([1] * (z.ndim - 1)))


def factor(norm: float, radius: float) -> float:
    """Return what a vector of an L2 norm is multiplied by, so that its norm is at most `radius`: `clip_norm`'s rule.

    Guarantee: for a norm that is off by up to a millionth part, and after rounding each product to float64, the scaled
    vector is within `radius` in exact arithmetic: the margin is 1e-6, and roundings are below 1e-15 of a number.

    Args:
        norm: of the whole vector, its entries all finite; finite and not negative.
        radius: positive and finite.

    Raises:
        UserError: on a bad radius.
        ValueError: on a norm that is none.

    >>> factor(0.5, 2.0), round(factor(8.0, 2.0), 4)
    (1.0, 0.25)
    """
    checks.positive(radius=radius)
    if not (math.isfinite(norm) and norm >= 0):
        raise ValueError(f"Expected a finite norm, got {norm!r}.")
    return radius * (1 - MARGIN) / norm if norm > radius * (1 - MARGIN) else 1.0
