"""The image back from any subset of the published transform's channels: least squares, no training, no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fedveil import checks
from fedveil.frequency import block, colour, operators
from fedveil.frequency.inverse import _axis, _sandwich, _spectrum

Map = Callable[[torch.Tensor], torch.Tensor]

_TINY = 1e-300
_INVISIBLE = 1e-10  # squared gain below which a pattern counts as absent from the channels


def subset_inverse(
    coefficients: torch.Tensor,
    channels: Sequence[int],
    align_corners: bool = True,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    steps: int = 20,
) -> torch.Tensor:
    """Return least-squares RGB images (B, 3, H, W) of some upsampled channels, found by conjugate gradients.

    Each channel is A_u X A_v^T of the image plane X (see `operators`), so the normal equations are a sum of products of
    one matrix per axis. In the basis that solves the case without DC exactly (`exact_inverse`) their diagonal is a good
    preconditioner: without DuetFace's ten lowest frequencies, 20 steps give back a drawn 112 px face within 0.3
    grey levels, up to one constant per colour. Few channels see few patterns; what they do not see stays 0.

    Args:
        coefficients: (B, 3 * len(channels), H, W), colour-major.
        channels: the frequencies 8u + v that they are, in this order per colour.
        align_corners: as given to `upsampled_dct`.
        mean: centred Y, Cb, Cr means to assume when DC is absent; ignored otherwise.
        steps: iterations, 1 or more; each costs about 16 products of H x W matrices per plane.

    Returns:
        Float64 RGB in 0..255 up to noise in the coefficients; neither rounded nor clamped.
    """
    checks.positive(steps=steps)
    chosen = block.check_channels(channels)
    spectrum = _spectrum(coefficients.double(), chosen)
    height, width = spectrum.shape[-2:]
    down, across = operators.dense(height, align_corners), operators.dense(width, align_corners)
    left, right = _axis(height, align_corners)[0], _axis(width, align_corners)[0]
    kept = torch.zeros(64, dtype=torch.float64)
    kept[list(chosen)] = 1.0
    grams_left = left.T @ down.transpose(1, 2) @ down @ left
    grams_right = right.T @ across.transpose(1, 2) @ across @ right
    grams_right = torch.einsum("uv,vij->uij", kept.view(8, 8), grams_right)  # one product per vertical frequency
    diagonal = torch.einsum("uii,ujj->ij", grams_left, grams_right)

    def normal(planes: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(planes)
        for gram_left, gram_right in zip(grams_left, grams_right, strict=True):
            total += gram_left @ planes @ gram_right
        return total

    def preconditioned(residual: torch.Tensor) -> torch.Tensor:
        return torch.where(diagonal > _INVISIBLE, residual / diagonal.clamp(min=_INVISIBLE), 0.0)

    moments = left.T @ _sandwich(down.transpose(1, 2), spectrum, across.transpose(1, 2)) @ right
    planes = left @ _conjugate_gradients(normal, preconditioned, moments, steps) @ right.T
    if 0 not in chosen:
        planes = planes - planes.mean((2, 3), keepdim=True) + torch.tensor(mean).double().view(1, 3, 1, 1)
    return colour.to_rgb(planes)


def _conjugate_gradients(normal: Map, preconditioned: Map, moments: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the solution of normal(X) = moments for every plane by itself, from X = 0."""
    solution, residual = torch.zeros_like(moments), moments.clone()
    direction = preconditioned(residual)
    size = (residual * direction).sum((2, 3), keepdim=True)
    for _ in range(steps):
        moved = normal(direction)
        curvature = (direction * moved).sum((2, 3), keepdim=True)
        step = torch.where(curvature > 0, size / curvature.clamp(min=_TINY), 0.0)
        solution += step * direction
        residual -= step * moved
        steepest = preconditioned(residual)
        before, size = size, (residual * steepest).sum((2, 3), keepdim=True)
        direction = steepest + torch.where(before > 0, size / before.clamp(min=_TINY), 0.0) * direction
    return solution
