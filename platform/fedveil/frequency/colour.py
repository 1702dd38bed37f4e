"""JPEG full-range YCbCr with centred planes, and the checks on image tensors that every transform needs."""

from __future__ import annotations

import torch

from fedveil.checks import UserError

_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


def matrix() -> torch.Tensor:
    """Return the (3, 3) float64 matrix RGB -> Y, Cb, Cr; every row has absolute sum 1, so every plane spans 255."""
    return torch.tensor(_YCC, dtype=torch.float64)


_RGB = torch.linalg.inv(matrix()).tolist()


def inverse_matrix() -> torch.Tensor:
    """Return the (3, 3) float64 matrix Y, Cb, Cr -> RGB; a constant, where a network that is exported needs one."""
    return torch.tensor(_RGB, dtype=torch.float64)


def check_images(images: torch.Tensor) -> None:
    """Raise `UserError` unless `images` is (B, 3, H, W), uint8 or floating point."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise UserError(f"Expected images of shape (B, 3, H, W), got {tuple(images.shape)}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"Expected images of type uint8 or float with values 0..255, got {images.dtype}.")


def to_ycc(images: torch.Tensor) -> torch.Tensor:
    """Return centred planes (B, 3, H, W) of RGB images in 0..255: Y - 128, Cb - 128, Cr - 128 of JPEG.

    uint8, float16 and float32 give float32; float64 stays. Values lie in [-128, 127] (Y) and [-127.5, 127.5] (Cb, Cr).
    """
    check_images(images)
    values = images if images.dtype == torch.float64 else images.to(torch.float32)
    batch, _, height, width = values.shape
    planes = torch.matmul(matrix().to(values), values.reshape(batch, 3, height * width)).view(batch, 3, height, width)
    planes[:, 0] -= 128.0
    return planes


def to_rgb(planes: torch.Tensor, offset: float = 128.0) -> torch.Tensor:
    """Return the RGB images (B, 3, H, W) of centred planes; exact inverse of `to_ycc`, not rounded, not clamped.

    `offset` is the grey of zero planes: 128 for values in 0..255, 128 / 255 for planes in units of white.
    """
    batch, _, height, width = planes.shape
    grey = torch.tensor([[offset], [0.0], [0.0]], dtype=torch.float64)
    shifted = planes.reshape(batch, 3, height * width) + grey.to(planes)
    return torch.matmul(inverse_matrix().to(planes), shifted).view(batch, 3, height, width)
