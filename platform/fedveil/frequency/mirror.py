"""The transforms of a face's mirror image, from the coefficients of the face alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedveil import checks
from fedveil.frequency import block


def mirrored(coefficients: torch.Tensor, channels: Sequence[int] | None = None) -> torch.Tensor:
    """Return the coefficients that the image mirrored left to right has: blocks swap sides, odd waves change sign.

    A wave of horizontal frequency v satisfies D[v, 7 - x] = (-1)^v D[v, x], and both transforms treat left and right
    alike: the grid of blocks of `block_dct` ends where the image does, and the eight samples of a pixel in
    `upsampled_dct` lie mirrored about its mirrored place, for either `align_corners`. A channel stays the channel it
    was, so the same holds for any subset of them. The map is linear, its own inverse and changes no value but in sign:
    of noisy coefficients it is post-processing without rounding, and it mirrors their noise with them.

    Args:
        coefficients: (B, 3 * len(channels), h, w), colour-major, of either transform.
        channels: the frequencies 8u + v that they are, in this order per colour; None: all 64.

    Raises:
        UserError: if the number of channels is not 3 * len(channels).

    >>> mirrored(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]] * 3]), channels=[0, 1])[0, :2, 0].tolist()
    [[2.0, 1.0], [-4.0, -3.0]]
    """
    chosen = block.check_channels(channels)
    if coefficients.ndim != 4 or coefficients.shape[1] != 3 * len(chosen):
        raise checks.UserError(
            f"Expected coefficients of shape (B, {3 * len(chosen)}, h, w), got {tuple(coefficients.shape)}."
        )
    signs = torch.tensor([1.0 - 2.0 * (channel % 2) for channel in chosen]).repeat(3)  # 8u + v is odd with v
    return coefficients.flip(-1) * signs.to(coefficients)[:, None, None]
