"""The critically sampled transform: orthonormal 8x8 block DCT of the image itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedveil import checks
from fedveil.frequency import colour, operators


def check_channels(channels: Sequence[int] | None) -> tuple[int, ...]:
    """Return the frequencies 8u + v to use (None: all 64); duplicates and values outside 0..63 are refused."""
    if channels is None:
        return tuple(range(64))
    chosen = tuple(int(channel) for channel in channels)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0 or max(chosen) > 63:
        raise checks.UserError(f"Expected channels={chosen} to be distinct frequencies 8u+v in 0..63, at least one.")
    return chosen


def block_dct(images: torch.Tensor, channels: Sequence[int] | None = None) -> torch.Tensor:
    """Return the 8x8 block DCT of the image itself: as many numbers as pixels.

    Each colour plane's map is orthonormal, so a plane's energy is kept exactly.

    Args:
        images: (B, 3, H, W) RGB, uint8 or float in 0..255; H and W multiples of 8.
        channels: frequencies 8u + v to return per colour, in this order; None returns all 64, `frequency.AC` drops DC.

    Returns:
        (B, 3 * len(channels), H / 8, W / 8), colour-major; float32, or float64 for float64 images.

    Raises:
        UserError: if H or W is no multiple of 8 (resize or crop the faces first).

    >>> grey = torch.full((1, 3, 16, 8), 255, dtype=torch.uint8)
    >>> coefficients = block_dct(grey)
    >>> coefficients.shape, round(float(coefficients[0, 0, 0, 0]))
    (torch.Size([1, 192, 2, 1]), 1016)
    """
    colour.check_images(images)
    checks.multiple_of(8, height=images.shape[2], width=images.shape[3])
    chosen = check_channels(channels)
    planes = colour.to_ycc(images)
    batch, _, height, width = planes.shape
    blocks = planes.view(batch, 3, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
    basis = operators.dct().to(planes)
    spectrum = (basis @ blocks @ basis.T).flatten(4).permute(0, 1, 4, 2, 3)
    if len(chosen) < 64 or chosen != tuple(range(64)):
        spectrum = spectrum[:, :, list(chosen)]
    return spectrum.reshape(batch, 3 * len(chosen), height // 8, width // 8)


def block_idct(coefficients: torch.Tensor, channels: Sequence[int] | None = None) -> torch.Tensor:
    """Return the RGB images (B, 3, 8h, 8w) of block coefficients; the exact inverse of `block_dct`.

    Frequencies that are not in `channels` are taken as 0. Values are neither rounded nor clamped to 0..255, so that
    noised coefficients are inverted linearly.

    Raises:
        UserError: if the number of channels is not 3 * len(channels).
    """
    chosen = check_channels(channels)
    if coefficients.ndim != 4 or coefficients.shape[1] != 3 * len(chosen):
        raise checks.UserError(
            f"Expected coefficients of shape (B, {3 * len(chosen)}, h, w), got {tuple(coefficients.shape)}."
        )
    batch, _, rows, columns = coefficients.shape
    spectrum = coefficients.reshape(batch, 3, len(chosen), rows, columns)
    if chosen != tuple(range(64)):
        full = spectrum.new_zeros(batch, 3, 64, rows, columns)
        full[:, :, list(chosen)] = spectrum
        spectrum = full
    blocks = spectrum.permute(0, 1, 3, 4, 2).reshape(batch, 3, rows, columns, 8, 8)
    basis = operators.dct().to(coefficients)
    planes = (basis.T @ blocks @ basis).permute(0, 1, 2, 4, 3, 5)
    return colour.to_rgb(planes.reshape(batch, 3, 8 * rows, 8 * columns))


def block_ranges() -> torch.Tensor:
    """Return max minus min of each block coefficient over all images, (64,) float64: 255 * |D_u|_1 * |D_v|_1.

    The same for the three colours; attained; independent of any data. AC ranges are symmetric about 0.
    """
    sums = operators.dct().abs().sum(1)
    return 255.0 * torch.outer(sums, sums).flatten()
