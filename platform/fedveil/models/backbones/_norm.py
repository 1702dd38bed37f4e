"""Group norm on channels-last maps of a processor, with its backward written out.

PyTorch 2.13 ends the process in its own where a norm trains and nothing in front of it does. The forward is PyTorch's,
bit by bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

_WANTED = False


@contextlib.contextmanager
def written_out(wanted: bool) -> Iterator[None]:
    """Let norms in this process have the backward of `group_norm` meanwhile; where all trains PyTorch's is faster."""
    global _WANTED
    before, _WANTED = _WANTED, wanted
    try:
        yield
    finally:
        _WANTED = before


def usable(x: torch.Tensor) -> bool:
    """Return whether these maps (B, C, H, W) are the ones that `group_norm` is for, and a backward may follow."""
    if not _WANTED:
        return False
    there = x.dtype == torch.float32 and x.device.type == "cpu" and x.ndim == 4
    return there and torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last) and len(x) > 0


def group_norm(x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the normalised maps, of the shape and order of `x`."""
    return cast(torch.Tensor, _GroupNorm.apply(x, groups, weight, bias, eps))  # type: ignore[no-untyped-call]


def statistics(
    x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return PyTorch's norm of (n, C, ...) with the means and inverse deviations (n, G) that a backward needs."""
    rows, positions = x.shape[0], x[0, 0].numel() if len(x) else 1
    found: Any = torch.native_group_norm(x, weight, bias, rows, x.shape[1], positions, groups, eps)
    return cast(tuple[torch.Tensor, torch.Tensor, torch.Tensor], found)


def backward(
    x: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor, products: torch.Tensor,
    sums: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return what a gradient g of the normalised maps comes to, row by row.

    Args:
        x: (n, C, ...) the maps.
        mean: (n, G) of groups.
        rstd: (n, G) one over their deviations.
        weight: (C,) scale.
        products: (n, C) sums of g x over positions.
        sums: (n, C) sums of g over positions.

    Returns:
        (n, C) gradients of the scale, and a (n, C), b (n, G) and c (n, G) such that a g + b x + c is the gradient of x,
        each spread over its channels.
    """
    rows, groups = mean.shape
    grouped = (rows, groups, -1)
    inner = (products.view(grouped) - sums.view(grouped) * mean[:, :, None]) * rstd[:, :, None]
    scale = weight.view(1, groups, -1)
    count = x[0].numel() // groups
    slope = (scale * inner).sum(2) * rstd.square() / count
    shift = slope * mean - (scale * sums.view(grouped)).sum(2) * rstd / count
    return inner.view(rows, -1), (scale * rstd[:, :, None]).view(rows, -1), -slope, shift


def spread(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return (n, C) or (n, G) numbers with as many dimensions as `x` (n, C, ...), those of groups once per channel."""
    each = x.shape[1] // values.shape[1]
    per_channel = values.repeat_interleave(each, 1) if each > 1 else values
    return per_channel.view(*per_channel.shape, *[1] * (x.ndim - 2))


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> torch.Tensor:
        y, mean, rstd = statistics(x, groups, weight, bias, eps)
        ctx.save_for_backward(x, mean, rstd, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor, torch.Tensor, None]:
        x, mean, rstd, weight = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        products, sums = (g * x).sum((2, 3)), g.sum((2, 3))
        scales, first, second, third = backward(x, mean, rstd, weight, products, sums)
        found = None
        if ctx.needs_input_grad[0]:
            found = torch.addcmul(spread(third, x), x, spread(second, x)).addcmul_(g, spread(first, x))
        return found, None, scales.sum(0), sums.sum(0), None
