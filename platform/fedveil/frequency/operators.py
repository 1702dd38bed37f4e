"""One-dimensional operators behind the transforms, in float64 and for any length.

Upsampling and block DCT are linear and separable, so their composition along one axis is a matrix `A_u` per frequency
u, and every row i of it has its non-zeros at the pixels i-1, i, i+1 only: an 8-sample block of the upsampled signal
spans less than one source pixel. That is why no upsampled image is ever needed.
"""

from __future__ import annotations

import functools
import math

import torch

FACTOR = 8


@functools.cache
def dct() -> torch.Tensor:
    """Return the orthonormal DCT-II matrix D[u, x] (8, 8), float64."""
    u = torch.arange(8, dtype=torch.float64)[:, None]
    x = torch.arange(8, dtype=torch.float64)[None]
    basis = 0.5 * torch.cos((2 * x + 1) * u * math.pi / 16)
    basis[0] *= math.sqrt(0.5)
    return basis


def _source(sample: int, length: int, align_corners: bool) -> tuple[int, float]:
    """Return (left source pixel, weight of its right neighbour) of one upsampled sample, from exact integers."""
    if align_corners:
        top, bottom = sample * (length - 1), FACTOR * length - 1
    else:
        top, bottom = max(2 * sample + 1 - FACTOR, 0), 2 * FACTOR
    return top // bottom, (top % bottom) / bottom


@functools.lru_cache(maxsize=32)
def dense(length: int, align_corners: bool) -> torch.Tensor:
    """Return A (8, length, length), float64: DCT row u of the eight upsampled samples of block i; do not modify.

    Entries below 1e-12 are rounding of exact zeros and become zero (all of u = 4 when `align_corners` is False).
    """
    up = torch.zeros(FACTOR * length, length, dtype=torch.float64)
    for sample in range(FACTOR * length):
        left, fraction = _source(sample, length, align_corners)
        up[sample, left] += 1.0 - fraction
        up[sample, min(left + 1, length - 1)] += fraction
    operator = torch.einsum("ux,ixj->uij", dct(), up.view(length, FACTOR, length))
    return torch.where(operator.abs() < 1e-12, 0.0, operator)


@functools.lru_cache(maxsize=32)
def taps(length: int, align_corners: bool) -> torch.Tensor:
    """Return the band of A as (8, 3, length) float32 weights of the pixels i-1, i, i+1 (zero outside the image)."""
    operator = dense(length, align_corners)
    band = torch.zeros(8, 3, length, dtype=torch.float64)
    for shift in range(3):
        diagonal = torch.diagonal(operator, offset=shift - 1, dim1=1, dim2=2)
        start = max(0, 1 - shift)
        band[:, shift, start : start + diagonal.shape[1]] = diagonal
    return band.float()


@functools.lru_cache(maxsize=32)
def down(length: int, align_corners: bool) -> torch.Tensor:
    """Return G (8, length), float64: pixel i of the published inverse is sum_u G[u, i] times coefficient u of block i.

    Bilinear resampling by 1/8 reads one or two neighbouring samples, and for either flag both of pixel i's lie in block
    i: that inverse looks at nothing but the pixel's own coefficients.
    """
    weights = torch.empty(FACTOR, length, dtype=torch.float64)
    for pixel in range(length):
        top, bottom = (pixel * (FACTOR * length - 1), max(length - 1, 1)) if align_corners else (16 * pixel + 7, 2)
        sample, fraction = top // bottom - FACTOR * pixel, (top % bottom) / bottom
        following = min(sample + 1, FACTOR - 1)  # of weight 0 where the block ends
        weights[:, pixel] = (1.0 - fraction) * dct()[:, sample] + fraction * dct()[:, following]
    return weights
