"""Two inverses of the published transform: the papers' own, which blurs, and the exact one, which does not."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from fedveil import checks
from fedveil.frequency import block, colour, operators


def _spectrum(coefficients: torch.Tensor, chosen: tuple[int, ...]) -> torch.Tensor:
    """Return (B, 3, 8, 8, H, W) in at least float32, zeros where a channel is absent."""
    if coefficients.ndim != 4 or coefficients.shape[1] != 3 * len(chosen):
        raise checks.UserError(
            f"Expected coefficients of shape (B, {3 * len(chosen)}, H, W), got {tuple(coefficients.shape)}."
        )
    batch, _, height, width = coefficients.shape
    if chosen == tuple(range(64)):
        return coefficients.reshape(batch, 3, 8, 8, height, width)
    full = coefficients.new_zeros(batch, 3, 64, height, width)
    full[:, :, list(chosen)] = coefficients.reshape(batch, 3, len(chosen), height, width)
    return full.view(batch, 3, 8, 8, height, width)


def _sandwich(left: torch.Tensor, spectrum: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return sum over u, v of left_u C_uv right_v^T, (B, 3, H, W), in the spectrum's precision."""
    columns = torch.einsum("bcuvij,vkj->bcuik", spectrum, right.to(spectrum))
    return torch.einsum("uhi,bcuik->bchk", left.to(spectrum), columns)


def published_decode(
    coefficients: torch.Tensor,
    channels: Sequence[int] | None = None,
    align_corners: bool = True,
    white: float = 255.0,
) -> torch.Tensor:
    """Return `published_inverse` before its clamp: affine, differentiable, and a function of each pixel's own channels.

    So d(a + b) - d(0) = d(a) - d(0) + d(b) - d(0) for all coefficients, and gradients do not die outside the range of
    pictures. One pass over the coefficients.

    Args:
        coefficients: (B, 3 * len(channels), H, W) float, in units in which white is `white`.
        channels: frequencies 8u + v that are present; absent ones are 0.
        align_corners: as given to `upsampled_dct`.
        white: 255 for coefficients of images in 0..255; 1 when they were divided by 255.

    Returns:
        RGB (B, 3, H, W), black at 0 and white at `white`, unbounded; 128/255 of white where all coefficients are 0.

    >>> published_decode(torch.zeros(1, 192, 8, 8)).unique()
    tensor([128.])
    """
    spectrum = _spectrum(coefficients, block.check_channels(channels))
    height, width = spectrum.shape[-2:]
    left = operators.down(height, align_corners).to(spectrum)[:, :, None]
    right = operators.down(width, align_corners).to(spectrum)
    return colour.to_rgb(_weighted(_weighted(spectrum, left), right), white * 128.0 / 255.0)


def _weighted(spectrum: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the sum over dimension 2 of (B, 3, 8, ...) times weights (8, ...), without a product of full size."""
    parts = spectrum.unbind(2)  # its gradient is one stack; indexing eight times would fill eight tensors of zeros
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.addcmul_(part, weight)
    return total


def published_inverse(
    coefficients: torch.Tensor, channels: Sequence[int] | None = None, align_corners: bool = True
) -> torch.Tensor:
    """Return RGB (B, 3, H, W) in 0..255 as the papers invert: block IDCT, fold, bilinear x1/8, clamp.

    Not an exact inverse: resampling by 1/8 after x8 mixes neighbouring pixels by up to 0.062. Absent channels are 0.
    """
    return published_decode(coefficients, channels, align_corners).clamp(0.0, 255.0)


@functools.lru_cache(maxsize=16)
def _axis(length: int, align_corners: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (M, share): M diagonalises one axis' normal matrix and its DC part together.

    With G = sum_u A_u^T A_u and G_0 = A_0^T A_0 there is M with M^T G M = I and M^T G_0 M = diag(share).
    """
    operator = operators.dense(length, align_corners)
    gram = torch.einsum("uij,uik->jk", operator, operator)
    factor = torch.linalg.cholesky(gram)
    half = torch.linalg.solve_triangular(factor, operator[0].T @ operator[0], upper=False)
    share, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(factor, half.T, upper=False))
    return torch.linalg.solve_triangular(factor.T, vectors, upper=True), share.clamp(0.0, 1.0)


def exact_inverse(
    coefficients: torch.Tensor,
    channels: Sequence[int] | None = None,
    align_corners: bool = True,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
) -> torch.Tensor:
    """Return the least-squares RGB images (B, 3, H, W) of upsampled coefficients: exact when they are unchanged.

    Dropping DC hides one constant per colour and nothing else, which is why it protects nothing. Solved in closed form:
    the normal matrices of the two axes are diagonalised once per size, G (x) G minus the DC part G_0 (x) G_0.

    Args:
        coefficients: (B, 192, H, W), or (B, 189, H, W) with `channels=frequency.AC`.
        channels: None (all 64) or the 63 AC frequencies in order; other subsets are refused.
        align_corners: as given to `upsampled_dct`.
        mean: centred Y, Cb, Cr means to assume when DC is absent; ignored otherwise.

    Returns:
        Float64 RGB in 0..255 up to noise in the coefficients; neither rounded nor clamped.
    """
    chosen = block.check_channels(channels)
    without_dc = chosen == tuple(range(1, 64))
    if not without_dc and chosen != tuple(range(64)):
        raise checks.UserError("Expected channels of exact_inverse to be None or frequency.AC (63).")
    spectrum = _spectrum(coefficients.double(), chosen)
    height, width = spectrum.shape[-2:]
    left, share_left = _axis(height, align_corners)
    right, share_right = _axis(width, align_corners)
    towards_left = operators.dense(height, align_corners).transpose(1, 2)
    towards_right = operators.dense(width, align_corners).transpose(1, 2)
    moments = _sandwich(towards_left, spectrum, towards_right)
    denominator = 1.0 - torch.outer(share_left, share_right) if without_dc else torch.ones(height, width).double()
    known = denominator > 1e-10  # the constant image is invisible without DC
    solved = torch.where(known, (left.T @ moments @ right) / denominator.clamp(min=1e-10), 0.0)
    planes = left @ solved @ right.T
    if without_dc:
        planes = planes - planes.mean((2, 3), keepdim=True) + torch.tensor(mean).double().view(1, 3, 1, 1)
    return colour.to_rgb(planes)
