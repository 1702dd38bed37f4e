"""The transforms against the published pipeline done naively in float64, and their inverses and ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import fft

from fedveil import frequency
from fedveil.checks import UserError

SIZES = [(16, 24), (9, 5), (1, 3), (32, 32)]
YCC = np.array([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])


def random_images(count: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)


def resample(length: int, target: int, align_corners: bool) -> np.ndarray:
    """Bilinear resampling of one axis as a matrix, written from the definition."""
    matrix = np.zeros((target, length))
    for k in range(target):
        if align_corners:
            position = k * (length - 1) / (target - 1) if target > 1 else 0.0
        else:
            position = max((k + 0.5) * length / target - 0.5, 0.0)
        left = min(int(np.floor(position + 1e-12)), length - 1)
        right = min(left + 1, length - 1)
        matrix[k, left] += 1 - (position - left)
        matrix[k, right] += position - left
    return matrix


def planes(images: torch.Tensor) -> np.ndarray:
    mixed = np.einsum("cr,brij->bcij", YCC, images.numpy().astype(np.float64))
    mixed[:, 1:] += 128
    return mixed - 128


def naive(images: torch.Tensor, align_corners: bool) -> np.ndarray:
    _, _, height, width = images.shape
    down, across = resample(height, 8 * height, align_corners), resample(width, 8 * width, align_corners)
    large = np.einsum("yi,bcij,xj->bcyx", down, planes(images), across)
    result = np.zeros((len(images), 192, height, width))
    for i in range(height):
        for j in range(width):
            block = large[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            result[:, :, i, j] = fft.dctn(block, axes=(2, 3), norm="ortho").reshape(len(images), 192)
    return result


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_upsampled_dct_equals_the_naive_pipeline(size: tuple[int, int], align_corners: bool) -> None:
    images = random_images(2, size)
    before = images.clone()
    fast = frequency.upsampled_dct(images, align_corners=align_corners)
    assert np.abs(fast.numpy() - naive(images, align_corners)).max() < 3e-4
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [[7, 25, 28, 30, 37, 44, 46, 51, 56], [9, 1, 10, 8], frequency.AC])
def test_a_subset_of_channels_is_a_subset_of_the_output(channels: list[int]) -> None:
    images = random_images(3, (16, 8))
    full = frequency.upsampled_dct(images).view(3, 3, 64, 16, 8)
    expected = full[:, :, list(channels)].reshape(3, -1, 16, 8)
    assert torch.equal(frequency.upsampled_dct(images, channels), expected)
    block = frequency.block_dct(images).view(3, 3, 64, 2, 1)
    assert torch.equal(frequency.block_dct(images, channels), block[:, :, list(channels)].reshape(3, -1, 2, 1))


def test_out_is_filled_and_returned() -> None:
    images = random_images(2, (8, 8))
    out = torch.full((2, 192, 8, 8), torch.nan)
    assert frequency.upsampled_dct(images, out=out) is out
    assert torch.equal(out, frequency.upsampled_dct(images.float()))
    with pytest.raises(UserError, match="out"):
        frequency.upsampled_dct(images, out=out[:1])
    with pytest.raises(UserError, match="out"):
        frequency.upsampled_dct(images, out=out.double())


def test_half_pixel_channels_that_vanish_are_exactly_zero() -> None:
    output = frequency.upsampled_dct(random_images(2, (16, 8)), align_corners=False).view(2, 3, 64, 16, 8)
    zero = frequency.identically_zero_channels(False)
    assert output[:, :, list(zero)].abs().max() == 0
    others = [k for k in range(64) if k not in zero]
    assert output[:, :, others].abs().amax((0, 3, 4)).min() > 0
    assert frequency.identically_zero_channels(True) == ()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_exact_inverse_returns_the_image(size: tuple[int, int], align_corners: bool) -> None:
    images = random_images(2, size)
    coefficients = torch.from_numpy(naive(images, align_corners))
    back = frequency.exact_inverse(coefficients, align_corners=align_corners)
    assert (back - images).abs().max() < 1e-8
    ac = coefficients.view(2, 3, 64, *size)[:, :, 1:].flatten(1, 2)[:1]
    mean = planes(images[:1]).mean((0, 2, 3))
    back = frequency.exact_inverse(ac, frequency.AC, align_corners, mean=tuple(mean))
    assert (back - images[:1]).abs().max() < 1e-6, "without DC only one constant per colour is missing"


def test_exact_inverse_is_least_squares() -> None:
    coefficients = torch.randn(1, 192, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pixels = torch.eye(60, dtype=torch.float64).view(60, 3, 4, 5)
    offset = naive(torch.zeros(1, 3, 4, 5, dtype=torch.float64), True).reshape(1, -1)
    operator = naive(pixels, True).reshape(60, -1) - offset
    # Least squares per centred plane, which is what an orthonormal DCT makes of white noise in the planes.
    ycc = np.linalg.inv(YCC)
    columns = np.einsum("rc,rijn->cijn", ycc, operator.reshape(3, 4, 5, -1)).reshape(60, -1).T
    solution = np.linalg.lstsq(columns, (coefficients.numpy().reshape(1, -1) - offset)[0], rcond=None)[0]
    expected = np.einsum("rc,cij->rij", ycc, solution.reshape(3, 4, 5))
    assert np.abs(frequency.exact_inverse(coefficients)[0].numpy() - expected).max() < 1e-9
    with pytest.raises(UserError, match="AC"):
        frequency.exact_inverse(coefficients[:, :3], [1])


@pytest.mark.parametrize("align_corners", [True, False])
def test_published_inverse_is_the_published_pipeline(align_corners: bool) -> None:
    height, width = 12, 9
    images = random_images(1, (height, width))
    coefficients = naive(images, align_corners)
    large = np.zeros((3, 8 * height, 8 * width))
    for i in range(height):
        for j in range(width):
            blocks = coefficients[0, :, i, j].reshape(3, 8, 8)
            large[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = fft.idctn(blocks, axes=(1, 2), norm="ortho")
    down, across = resample(8 * height, height, align_corners), resample(8 * width, width, align_corners)
    small = np.einsum("iy,cyx,jx->cij", down, large, across)
    small[0] += 128
    expected = np.einsum("rc,cij->rij", np.linalg.inv(YCC), small).clip(0, 255)
    result = frequency.published_inverse(torch.from_numpy(coefficients), align_corners=align_corners)
    assert np.abs(result[0].numpy() - expected).max() < 1e-8
    assert (result - images).abs().max() > 1, "it blurs, unlike the exact inverse"


def test_block_dct_equals_scipy_and_keeps_energy() -> None:
    images = random_images(2, (16, 24))
    expected = np.zeros((2, 192, 2, 3))
    for i in range(2):
        for j in range(3):
            block = planes(images)[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            expected[:, :, i, j] = fft.dctn(block, axes=(2, 3), norm="ortho").reshape(2, 192)
    assert np.abs(frequency.block_dct(images).numpy() - expected).max() < 1e-3
    exact = frequency.block_dct(images.double())
    assert np.abs(exact.numpy() - expected).max() < 1e-10
    assert float(exact.square().sum()) == pytest.approx(float((planes(images) ** 2).sum()))


def test_block_idct_is_the_exact_inverse() -> None:
    images = random_images(3, (8, 32))
    assert (frequency.block_idct(frequency.block_dct(images.double())) - images).abs().max() < 1e-9
    assert (frequency.block_idct(frequency.block_dct(images)) - images).abs().max() < 1e-3
    ac = frequency.block_idct(frequency.block_dct(images.double(), frequency.AC), frequency.AC)
    blocks = ac.view(3, 3, 1, 8, 4, 8).mean((3, 5))
    assert (blocks - 128).abs().max() < 1e-9, "a block without DC is grey on average"


@pytest.mark.parametrize("size", [(12, 16), (16, 15)])
def test_block_dct_refuses_other_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="multiple of 8"):
        frequency.block_dct(random_images(1, size))


@pytest.mark.parametrize("bad", [[64], [-1], [1, 1], []])
def test_bad_channels_are_refused(bad: list[int]) -> None:
    with pytest.raises(UserError, match="channels"):
        frequency.block_dct(random_images(1, (8, 8)), bad)
    with pytest.raises(UserError, match="channels"):
        frequency.upsampled_dct(random_images(1, (8, 8)), bad)


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
        frequency.upsampled_dct(torch.zeros(3, 8, 8))
    with pytest.raises(UserError, match="uint8 or float"):
        frequency.block_dct(torch.zeros(1, 3, 8, 8, dtype=torch.int64))


def test_an_empty_batch_passes() -> None:
    images = torch.zeros(0, 3, 16, 8, dtype=torch.uint8)
    assert frequency.upsampled_dct(images).shape == (0, 192, 16, 8)
    assert frequency.block_idct(frequency.block_dct(images)).shape == (0, 3, 16, 8)


def test_released_coefficients_give_the_upsampled_layout_of_their_image() -> None:
    images = random_images(2, (16, 8))
    layout = frequency.to_upsampled_layout(frequency.block_dct(images), channels=frequency.AC)
    assert (layout - frequency.upsampled_dct(images, frequency.AC)).abs().max() < 1e-2


@pytest.mark.parametrize("align_corners", [True, False])
def test_upsampled_ranges_are_exact(align_corners: bool) -> None:
    size = (5, 4)
    pixels = torch.eye(3 * 20, dtype=torch.float64).view(60, 3, *size)
    derivative = naive(pixels, align_corners) - naive(torch.zeros(1, 3, *size), align_corners)
    expected = 255 * np.abs(derivative).sum(0).reshape(3, 64, *size)
    ranges = frequency.coefficient_ranges(size, align_corners).numpy()
    for colour in range(3):
        assert np.abs(expected[colour] - ranges).max() < 1e-6


def test_upsampled_ranges_are_attained_and_never_exceeded() -> None:
    size = (8, 8)
    half = frequency.coefficient_ranges(size)[1:] / 2
    yy, xx = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    boards = torch.stack([(yy + xx) % 2, yy % 2, xx % 2, (yy // 2 + xx // 2) % 2, (xx + yy // 4) % 2]) * 255
    hostile = torch.cat([boards, 255 - boards])[:, None].expand(-1, 3, -1, -1).to(torch.uint8)
    coloured = random_images(200, size) // 128 * 255  # every colour at full saturation
    images = torch.cat([hostile, coloured])
    values = frequency.upsampled_dct(images, frequency.AC).view(len(images), 3, 63, *size)
    assert (values.abs() - half).max() < 1e-3
    # Attained: the image that follows the signs of one coefficient's weights.
    target = (0, 9, 3, 4)
    pixels = torch.eye(192, dtype=torch.float64).view(192, 3, *size)
    operator = naive(pixels, True) - naive(torch.zeros(1, 3, *size), True)
    weights = operator.reshape(192, 3, 64, *size)[(slice(None), *target)]
    best = torch.from_numpy((weights > 0) * 255.0).view(1, 3, *size)
    reached = frequency.upsampled_dct(best).view(3, 64, *size)[target]
    assert float(reached) == pytest.approx(float(half[target[1] - 1, target[2], target[3]]), rel=1e-5)


def test_published_maximal_ranges() -> None:
    widest = frequency.coefficient_ranges((112, 112)).amax((1, 2))
    expected = {0: 2040, 1: 1152.5, 2: 564.3, 3: 141.0, 4: 126.5, 5: 62.8, 6: 67.6, 7: 43.1, 63: 0.9}
    assert {k: float(widest[k]) for k in expected} == pytest.approx(expected, rel=2e-2)


def test_block_ranges_are_attained() -> None:
    ranges = frequency.block_ranges()
    for k in (0, 1, 9, 20, 63):
        spectrum = torch.zeros(1, 3, 64, 1, 1, dtype=torch.float64)
        spectrum[0, 0, k] = 1.0
        pattern = frequency.block_idct(spectrum.flatten(1, 2)) - 128
        best, worst = (pattern > 0) * 255.0, (pattern < 0) * 255.0
        gap = frequency.block_dct(best.double())[0, k] - frequency.block_dct(worst.double())[0, k]
        assert float(gap) == pytest.approx(float(ranges[k]))
