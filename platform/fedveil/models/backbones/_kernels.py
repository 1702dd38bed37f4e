"""The kernels behind `_fused`, in Triton, which comes with PyTorch's CUDA builds; imported on first use only."""

# Triton reads annotations as its own types, and has none for Python.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_LARGE = 2048  # positions from which programs are made narrower, so that there are enough of them


@triton.jit
def _per_group(values, count: tl.constexpr, width: tl.constexpr):
    """Return the sum over each channel's group, for every channel: (count,) to (count,)."""
    sums = tl.sum(tl.reshape(values, (count // width, width)), 1)
    return tl.reshape(tl.broadcast_to(sums[:, None], (count // width, width)), (count,))


@triton.jit
def _forward(
    x_pointer, y_pointer, weight_pointer, bias_pointer, slope_pointer, mean_pointer,
    rstd_pointer, positions, channels, eps,
    wide: tl.constexpr, width: tl.constexpr, tall: tl.constexpr, act: tl.constexpr,
):  # fmt: skip
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = part * wide + tl.arange(0, wide)
    start = image * positions * channels
    first = tl.load(x_pointer + start + c).to(tl.float32)  # differences from it keep their digits when squared
    total = tl.zeros((wide,), tl.float32)
    squares = tl.zeros((wide,), tl.float32)
    for at in range(0, positions, tall):
        p = at + tl.arange(0, tall)
        here = (p < positions)[:, None]
        x = tl.load(x_pointer + start + p[:, None] * channels + c[None, :], mask=here, other=0.0).to(tl.float32)
        d = tl.where(here, x - first[None, :], 0.0)
        total += tl.sum(d, 0)
        squares += tl.sum(d * d, 0)
    count = positions * width
    own = first + total / positions
    mean = _per_group(own, wide, width) / width
    spread = squares - total * total / positions + positions * (own - mean) * (own - mean)
    rstd = 1.0 / tl.sqrt(_per_group(spread, wide, width) / count + eps)
    tl.store(mean_pointer + image * channels + c, mean)
    tl.store(rstd_pointer + image * channels + c, rstd)
    scale = tl.load(weight_pointer + c).to(tl.float32) * rstd
    shift = tl.load(bias_pointer + c).to(tl.float32) - mean * scale
    slope = tl.load(slope_pointer + c).to(tl.float32) if act else scale
    for at in range(0, positions, tall):
        p = at + tl.arange(0, tall)
        here = (p < positions)[:, None]
        where = start + p[:, None] * channels + c[None, :]
        x = tl.load(x_pointer + where, mask=here, other=0.0).to(tl.float32)
        z = x * scale[None, :] + shift[None, :]
        if act:
            z = tl.where(z > 0, z, z * slope[None, :])
        tl.store(y_pointer + where, z.to(y_pointer.dtype.element_ty), mask=here)


@triton.jit
def _backward(
    x_pointer, dy_pointer, dx_pointer, weight_pointer, bias_pointer, slope_pointer,
    mean_pointer, rstd_pointer, sums_pointer, images, positions, channels,
    wide: tl.constexpr, width: tl.constexpr, tall: tl.constexpr, act: tl.constexpr,
):  # fmt: skip
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = part * wide + tl.arange(0, wide)
    start = image * positions * channels
    mean = tl.load(mean_pointer + image * channels + c)
    rstd = tl.load(rstd_pointer + image * channels + c)
    weight = tl.load(weight_pointer + c).to(tl.float32)
    bias = tl.load(bias_pointer + c).to(tl.float32)
    slope = tl.load(slope_pointer + c).to(tl.float32) if act else weight
    by_shift = tl.zeros((wide,), tl.float32)
    by_scale = tl.zeros((wide,), tl.float32)
    by_slope = tl.zeros((wide,), tl.float32)
    for at in range(0, positions, tall):
        p = at + tl.arange(0, tall)
        here = (p < positions)[:, None]
        where = start + p[:, None] * channels + c[None, :]
        x = tl.load(x_pointer + where, mask=here, other=0.0).to(tl.float32)
        dz = tl.load(dy_pointer + where, mask=here, other=0.0).to(tl.float32)  # 0 outside, so are all its products
        normal = (x - mean[None, :]) * rstd[None, :]
        if act:
            z = normal * weight[None, :] + bias[None, :]
            by_slope += tl.sum(tl.where(z > 0, 0.0, dz * z), 0)
            dz = tl.where(z > 0, dz, dz * slope[None, :])
        by_shift += tl.sum(dz, 0)
        by_scale += tl.sum(dz * normal, 0)
    row = image * channels + c
    tl.store(sums_pointer + row, by_scale)
    tl.store(sums_pointer + images * channels + row, by_shift)
    if act:
        tl.store(sums_pointer + 2 * images * channels + row, by_slope)
    count = positions * width
    flat = _per_group(weight * by_shift, wide, width) / count
    tilt = _per_group(weight * by_scale, wide, width) / count
    for at in range(0, positions, tall):
        p = at + tl.arange(0, tall)
        here = (p < positions)[:, None]
        where = start + p[:, None] * channels + c[None, :]
        x = tl.load(x_pointer + where, mask=here, other=0.0).to(tl.float32)
        dz = tl.load(dy_pointer + where, mask=here, other=0.0).to(tl.float32)
        normal = (x - mean[None, :]) * rstd[None, :]
        if act:
            z = normal * weight[None, :] + bias[None, :]
            dz = tl.where(z > 0, dz, dz * slope[None, :])
        dx = rstd[None, :] * (weight[None, :] * dz - flat[None, :] - normal * tilt[None, :])
        tl.store(dx_pointer + where, dx.to(dx_pointer.dtype.element_ty), mask=here)


class NormAct(torch.autograd.Function):
    """Group norm and, with a slope, PReLU; see `_fused.group_norm`."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float,
        slope: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the maps; keep what the gradient needs: the input and two numbers per image and channel."""
        images, channels, positions = int(x.shape[0]), int(x.shape[1]), int(x.shape[2] * x.shape[3])
        wide, tall = _tiling(channels, positions)
        y = torch.empty_like(x)
        mean, rstd = torch.empty(2, images, channels, device=x.device)
        ctx.tiles = {"wide": wide, "width": channels // groups, "tall": tall, "act": slope is not None}
        with torch.cuda.device_of(x):
            _forward[images, channels // wide](
                x, y, weight, bias, weight if slope is None else slope, mean, rstd, positions, channels, eps,
                num_warps=8 if tall > 64 else 4, **ctx.tiles,
            )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, weight if slope is None else slope, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradients of the input, the scale, the shift and the slope."""
        (dy,) = gradients
        x, weight, bias, slope, mean, rstd = ctx.saved_tensors
        images, channels, positions = int(x.shape[0]), int(x.shape[1]), int(x.shape[2] * x.shape[3])
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, act = torch.empty_like(x), ctx.tiles["act"]
        sums = torch.empty(3 if act else 2, images, channels, device=x.device)
        with torch.cuda.device_of(x):
            _backward[images, channels // ctx.tiles["wide"]](
                x, dy, dx, weight, bias, slope, mean, rstd, sums, images, positions, channels,
                num_warps=8 if ctx.tiles["tall"] > 64 else 4, **ctx.tiles,
            )  # fmt: skip
        by = sums.sum(1)
        return dx, None, by[0].to(weight.dtype), by[1].to(bias.dtype), None, by[2].to(slope.dtype) if act else None


def _tiling(channels: int, positions: int) -> tuple[int, int]:
    """Return how many channels a program holds, a power of two, and how many positions it reads at a time."""
    wide = 64 if channels % 64 == 0 and positions < _LARGE else 32
    return wide, 128 if positions >= 128 else 64
