"""SSIM and PSNR against loops over windows and pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedveil import checks
from fedveil.evaluation import reconstruction


def naive_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean over windows of two images (3, H, W), one window at a time."""
    places = np.arange(11) - 5
    line = np.exp(-(places**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for colour in range(3):
        for top in range(x.shape[1] - 10):
            for left in range(x.shape[2] - 10):
                a, b = (image[colour, top : top + 11, left : left + 11] for image in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                both = (weights * (a - mean_a) * (b - mean_b)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                found.append((2 * mean_a * mean_b + c1) * (2 * both + c2)
                             / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))  # fmt: skip
    return float(np.mean(found))


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, (2, 3, 14, 16)).astype(np.float64)
    return first, np.clip(first + rng.normal(0, 30, first.shape), 0, 255)


def test_ssim_is_the_mean_over_windows(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = images
    found = reconstruction.ssim(torch.from_numpy(first), torch.from_numpy(second))
    assert found.tolist() == pytest.approx([naive_ssim(a, b) for a, b in zip(first, second, strict=True)], abs=1e-9)
    assert reconstruction.ssim(torch.from_numpy(first), torch.from_numpy(first)).tolist() == pytest.approx([1, 1])


def test_psnr_is_of_each_image_by_itself(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = images
    wanted = [10 * math.log10(255**2 / np.mean((a - b) ** 2)) for a, b in zip(first, second, strict=True)]
    found = reconstruction.psnr(torch.from_numpy(first), torch.from_numpy(second))
    assert found.tolist() == pytest.approx(wanted)
    assert reconstruction.psnr(torch.from_numpy(first), torch.from_numpy(first)).tolist() == [100, 100]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(checks.UserError, match="recovered"):
        reconstruction.psnr(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 8))
    with pytest.raises(checks.UserError, match="11 pixels"):
        reconstruction.ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
