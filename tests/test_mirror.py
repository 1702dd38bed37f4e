"""The flip of coefficients against the flip of the picture they came from."""

from __future__ import annotations

import pytest
import torch

from fedveil import checks, frequency

SUBSETS = [None, frequency.AC, (0,), (7,), (9, 1, 62, 8), (5, 34, 38, 21, 42, 55, 57, 50, 62)]


def faces(size: tuple[int, int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 255 * torch.rand(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("channels", SUBSETS)
@pytest.mark.parametrize("size", [(8, 8), (16, 24), (32, 16)])
def test_blocks_of_the_mirrored_image(size, channels) -> None:
    images = faces(size)
    found = frequency.mirrored(frequency.block_dct(images, channels), channels)
    expected = frequency.block_dct(images.flip(-1), channels)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    if channels != (0,):
        assert not torch.allclose(found, frequency.block_dct(images, channels), rtol=0, atol=1e-3)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("channels", SUBSETS)
@pytest.mark.parametrize("size", [(8, 8), (9, 5), (3, 1), (16, 24)])
def test_upsampled_channels_of_the_mirrored_image(size, channels, align_corners) -> None:
    images = faces(size)
    found = frequency.mirrored(frequency.upsampled_dct(images, channels, align_corners), channels)
    expected = frequency.upsampled_dct(images.flip(-1), channels, align_corners)
    assert torch.allclose(found, expected, rtol=0, atol=6e-4)  # twice the transform's own rounding


def test_any_coefficients_noise_included_are_mirrored_without_rounding() -> None:
    """Not only those of pictures: the inverse of mirrored noise is the noise's picture, mirrored."""
    noisy = 1000 * torch.randn(2, 189, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = frequency.mirrored(noisy, frequency.AC)
    assert torch.equal(frequency.mirrored(found, frequency.AC), noisy)
    assert torch.equal(found.abs().flip(-1), noisy.abs())
    pictures = [frequency.block_idct(one, frequency.AC) for one in (noisy, found)]
    assert torch.allclose(pictures[1], pictures[0].flip(-1), rtol=0, atol=1e-9)


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(checks.UserError, match=r"\(B, 192, h, w\), got \(1, 189, 2, 2\)"):
        frequency.mirrored(torch.zeros(1, 189, 2, 2))
