"""The published transform: upsample by 8 (bilinear), 8x8 block DCT; computed without the upsampled image.

"Privacy-Preserving Face Recognition with Learnable Privacy Budgets in Frequency Domain" (ECCV 2022,
https://arxiv.org/abs/2207.07316) feeds these channels to the recogniser. Every output is a 3x3-tap function of the
original pixels (see `operators`), so each axis is three multiply-adds on shifted views, image by image, which keeps the
intermediate in the processor's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from fedveil import checks
from fedveil.frequency import block, colour, operators


def _runs(chosen: tuple[int, ...]) -> list[tuple[int, int, list[int]]]:
    """Group consecutive channels of equal u: (position of the first, u, list of v)."""
    runs, at = [], 0
    for u, group in itertools.groupby(chosen, key=lambda channel: channel // 8):
        columns = [channel % 8 for channel in group]
        runs.append((at, u, columns))
        at += len(columns)
    return runs


def upsampled_dct(
    images: torch.Tensor,
    channels: Sequence[int] | None = None,
    align_corners: bool = True,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the published x8-upsampled block DCT, without ever forming the upsampled image.

    Within 3e-4 of exact arithmetic for pixels in 0..255 (DC spans 2040). Not differentiable; coefficients that no pixel
    influences (see `identically_zero_channels`) are exactly 0.

    Args:
        images: (B, 3, H, W) RGB, uint8 or float in 0..255, any H and W.
        channels: frequencies 8u + v to return per colour, in this order; None returns all 64. Cost is proportional.
        align_corners: the published upsampling (True), or half-pixel centres (False), which makes the transform an
            exactly shift-invariant 3x3 convolution with replicated borders.
        out: contiguous float32 (B, 3 * len(channels), H, W) buffer to fill and return. Reuse one: fresh memory of this
            size costs several times more than the transform.

    Returns:
        (B, 3 * len(channels), H, W) float32; for all 64 channels the index is 64 * colour + 8 * u + v.

    Raises:
        UserError: on a wrong shape or type of `images` or `out`, or channels outside 0..63.

    >>> upsampled_dct(torch.zeros(2, 3, 20, 12, dtype=torch.uint8), channels=[1, 8]).shape
    torch.Size([2, 6, 20, 12])
    """
    colour.check_images(images)
    chosen = block.check_channels(channels)
    batch, _, height, width = images.shape
    shape = (batch, 3 * len(chosen), height, width)
    if out is None:
        out = torch.empty(shape, device=images.device)
    checks.same_shape(shape, out=out.shape)
    if out.dtype != torch.float32 or not out.is_contiguous() or out.device != images.device:
        raise checks.UserError(f"Expected out on {images.device}, float32 and contiguous, got {out.dtype}.")
    with torch.no_grad():
        _fill(images, chosen, align_corners, out)
    return out


def _fill(images: torch.Tensor, chosen: tuple[int, ...], align_corners: bool, out: torch.Tensor) -> None:
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(colour.to_ycc(images).float(), (0, 0, 1, 1))
    runs = _runs(chosen)
    if 2 * len(runs) > len(chosen):  # scattered frequencies: one vertical pass each costs less than many small calls
        rows = [channel // 8 for channel in chosen]
        runs, source_of = [(0, 0, [channel % 8 for channel in chosen])], {0: slice(0, len(chosen))}
    else:
        rows = sorted({u for _, u, _ in runs})
        source_of = {u: slice(index, index + 1) for index, u in enumerate(rows)}
    vertical = operators.taps(height, align_corners)[rows].to(images.device)
    horizontal = operators.taps(width, align_corners).to(images.device)
    down = [vertical[:, shift].view(1, 1, len(rows), height, 1) for shift in range(3)]
    across = [[horizontal[v, shift].view(1, 1, len(v), 1, width) for shift in range(3)] for _, _, v in runs]
    step = 1 if images.device.type == "cpu" else batch  # one image stays in cache; a GPU wants large launches
    step = max(step, 1)
    buffer = torch.zeros(step, 3, len(rows), height, width + 2, device=images.device)
    for start in range(0, batch, step):
        image = padded[start : start + step].unsqueeze(2)
        wide = buffer[: image.shape[0]]
        middle = wide[..., 1:-1]
        torch.mul(image[..., 0:height, :], down[0], out=middle)
        middle.addcmul_(image[..., 1 : height + 1, :], down[1]).addcmul_(image[..., 2 : height + 2, :], down[2])
        result = out[start : start + step].view(-1, 3, len(chosen), height, width)
        for (at, u, columns), weights in zip(runs, across, strict=True):
            source = wide[:, :, source_of[u]]
            target = result[:, :, at : at + len(columns)]
            torch.mul(source[..., 0:width], weights[0], out=target)
            target.addcmul_(source[..., 1 : width + 1], weights[1]).addcmul_(source[..., 2 : width + 2], weights[2])


@torch.no_grad()
def upsampled_dct_each(
    images: torch.Tensor, channels: Sequence[Sequence[int]], align_corners: bool = True
) -> torch.Tensor:
    """Return `upsampled_dct` of every image at channels of its own, bit for bit, all images at once: for GPUs.

    A processor does better image by image, with `upsampled_dct`.

    Args:
        images: (B, 3, H, W), B at least 1.
        channels: of each image, K frequencies 8u + v.
        align_corners: as for `upsampled_dct`.

    Returns:
        (B, 3 * K, H, W) float32.

    >>> images = (torch.arange(2 * 3 * 8 * 8) % 256).to(torch.uint8).view(2, 3, 8, 8)
    >>> both = upsampled_dct_each(images, [[1, 8], [9, 3]])
    >>> torch.equal(both[1:], upsampled_dct(images[1:], [9, 3]))
    True
    """
    colour.check_images(images)
    chosen = [block.check_channels(each) for each in channels]
    checks.same_shape((len(images),), channels=(len(chosen),))
    if len({len(each) for each in chosen}) != 1:
        raise checks.UserError("Expected as many channels for every image as for the first, and an image.")
    height, width = int(images.shape[2]), int(images.shape[3])
    padded = torch.nn.functional.pad(colour.to_ycc(images).float(), (1, 1, 1, 1)).unsqueeze(2)
    which = torch.tensor(chosen)
    down = operators.taps(height, align_corners)[which // 8].to(images.device)[:, None, :, :, :, None]
    across = operators.taps(width, align_corners)[which % 8].to(images.device)[:, None, :, :, None, :]
    wide = padded[..., 0:height, :] * down[:, :, :, 0]
    wide.addcmul_(padded[..., 1 : height + 1, :], down[:, :, :, 1])
    wide.addcmul_(padded[..., 2 : height + 2, :], down[:, :, :, 2])
    out = wide[..., 0:width] * across[:, :, :, 0]
    out.addcmul_(wide[..., 1 : width + 1], across[:, :, :, 1])
    out.addcmul_(wide[..., 2 : width + 2], across[:, :, :, 2])
    return out.flatten(1, 2)


def to_upsampled_layout(
    coefficients: torch.Tensor,
    block_channels: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    align_corners: bool = True,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return block coefficients (B, 3 * len(block_channels), h, w) in the upsampled layout (B, ., 8h, 8w).

    It is `upsampled_dct` of the inverse image, a function of the coefficients alone: free post-processing of a release.
    """
    images = block.block_idct(coefficients, block_channels)
    return upsampled_dct(images, channels, align_corners, out)


def coefficient_ranges(size: tuple[int, int], align_corners: bool = True) -> torch.Tensor:
    """Return max minus min of each upsampled coefficient over *all* images, (64, H, W) float64, without any data.

    At frequency (u, v) and position (i, j) it is 255 * |A_u[i]|_1 * |A_v[j]|_1: pixels move in [0, 255] independently,
    and each colour's weights have absolute sum 1, so it holds for Y, Cb and Cr alike and is attained. AC ranges are
    symmetric about 0. The largest value per channel is `.amax((1, 2))`.
    """
    checks.positive(height=size[0], width=size[1])
    down = operators.dense(size[0], align_corners).abs().sum(2)
    across = operators.dense(size[1], align_corners).abs().sum(2)
    return 255.0 * torch.einsum("ui,vj->uvij", down, across).flatten(0, 1)


def identically_zero_channels(align_corners: bool = True) -> tuple[int, ...]:
    """Return the frequencies 8u + v that are 0 for every image: none, or the 15 with u = 4 or v = 4 for half-pixel.

    >>> identically_zero_channels(align_corners=False)[:6]
    (4, 12, 20, 28, 32, 33)
    """
    return () if align_corners else tuple(k for k in range(64) if 4 in (k // 8, k % 8))
