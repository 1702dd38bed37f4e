"""How close a recovered picture is to the original: structural similarity and peak signal-to-noise ratio.

Neither bounds who can be recognised: a picture that scores below the mean face may still be accepted as its person, so
both stand beside measures of identity (`identification`).
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as functional

from fedveil import checks

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BEST = 100.0


def psnr(recovered: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Return (B,) 10 log10(255^2 / mean squared error) of each image, dB; equal images have 100.

    Args:
        recovered: (B, 3, H, W), 0..255.
        original: of the same shape.
    """
    error = _pair(recovered, original)
    mse = (error[0] - error[1]).square().mean((1, 2, 3))
    return (10 * torch.log10(255.0**2 / mse.clamp(min=1e-12))).clamp(max=_BEST)


def ssim(recovered: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Return (B,) the mean structural similarity (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861).

    Gaussian windows of 11 x 11 pixels, sigma 1.5, that lie wholly inside the picture; each colour by itself, then their
    mean; range 255. At 32 pixels a window covers a third of a face, so values of different sizes do not compare.

    Args:
        recovered: (B, 3, H, W), 0..255, 11 pixels or more a side.
        original: of the same shape.
    """
    x, y = _pair(recovered, original)
    if min(x.shape[2:]) < _WINDOW:
        raise checks.UserError(f"Expected images of {_WINDOW} pixels or more a side, got {tuple(x.shape[2:])}.")
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    both = _blurred(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + _C1) * (2 * both + _C2)
    below = (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    return (above / below).mean((1, 2, 3))


def _pair(recovered: torch.Tensor, original: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    checks.same_shape(tuple(original.shape), recovered=tuple(recovered.shape))
    if original.ndim != 4 or original.shape[1] != 3:
        raise checks.UserError(f"Expected images of shape (B, 3, H, W), got {tuple(original.shape)}.")
    return recovered.double(), original.double()


@functools.cache
def _kernel() -> torch.Tensor:
    places = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * _SIGMA**2))
    return weights / weights.sum()


def _blurred(images: torch.Tensor) -> torch.Tensor:
    weights = _kernel().to(images.device)
    flat = images.flatten(0, 1)[:, None]
    down = functional.conv2d(flat, weights.view(1, 1, -1, 1))
    across = functional.conv2d(down, weights.view(1, 1, 1, -1))
    return across.view(*images.shape[:2], *across.shape[2:])
