"""Layers whose units' gradients are book-kept, each with its own forward and backward: what a rule is, and small ones.

A rule's backward finds the gradient of its input and writes down its parameters' share; nothing else of autograd
computes a parameter's gradient. Norms and sums are float32 at least, whatever the layer computes in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil.models.backbones import _norm
from fedveil.private_training._shares import Book, Rows

Saved = tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A module that is book-kept.

    Attributes:
        name: in the network.
        module: itself.
        rule: how.
        index: its trained parameters' names -> their numbers among the trained tensors.
        book: where shares are written.
    """

    name: str
    module: Any
    rule: Rule
    index: Mapping[str, int]
    book: Book

    def small(self, name: str, gradients: torch.Tensor) -> None:
        """Write down a small parameter's gradients by row, (n, ...), where it is trained."""
        if name in self.index:
            self.book.shares.append(Rows(self.index[name], self.book.part.by_unit(wide(gradients))))


class Rule(Protocol):
    """A layer's forward and backward; neither records anything with autograd."""

    def forward(self, module: Any, x: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Return the module's output and what backward needs."""
        ...

    def backward(self, entry: Entry, saved: Saved, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """Write the parameters' shares into the entry's book; return the gradient of the input where it is wanted."""
        ...


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float32 unless it is float64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def alike(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `g` in the memory order of `x`: mixed orders are slow in whatever works on single numbers."""
    if g.stride() == x.stride():
        return g
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return g.contiguous(memory_format=torch.channels_last)
    return g.contiguous()


def total(maps: torch.Tensor) -> torch.Tensor:
    """Return the sums of (n, C, ...) over positions: (n, C), float32 at least."""
    maps = wide(maps)
    return maps.sum(tuple(range(2, maps.ndim))) if maps.ndim > 2 else maps


def spread(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return (C,) or (n, C) with as many dimensions as `x` (n, C, ...), and of its type."""
    rows = values if values.ndim == 2 else values[None]
    return rows.to(x.dtype).view(*rows.shape, *[1] * (x.ndim - 2))


class GroupNorm:
    """Group norm. Its backward is written out: PyTorch's has no gradients of single rows."""

    def forward(self, module: nn.GroupNorm, x: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """See `Rule`."""
        rows, groups = x.shape[0], module.num_groups
        if x.dtype in (torch.float32, torch.float64):
            maps = x.contiguous() if x.is_cuda else x  # its kernel on a GPU knows no other order
            y, mean, rstd = _norm.statistics(maps, groups, module.weight, module.bias, module.eps)
            return alike(y, x), (x, mean, rstd)
        y = type(module).forward(module, x)
        maps = x.float().reshape(rows, groups, -1)  # statistics in half precision would spoil the norms
        variance, mean = torch.var_mean(maps, 2, correction=0)
        return y, (x, mean, torch.rsqrt(variance + module.eps))

    def backward(self, entry: Entry, saved: Saved, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """See `Rule`."""
        x, mean, rstd = saved
        module = cast(nn.GroupNorm, entry.module)
        g = alike(g, x)
        products, sums = total(wide(g) * x), total(g)  # (n, C)
        scales, *found = _norm.backward(x, mean, rstd, wide(module.weight), products, sums)
        entry.small("weight", scales)
        entry.small("bias", sums)
        if not wanted:
            return None
        maps, g = wide(x), wide(g)
        first, second, third = (_norm.spread(each, maps) for each in found)
        out = torch.empty_like(maps)
        if maps.is_contiguous():
            torch.mul(maps, second, out=out).add_(third)
        else:
            torch.addcmul(third, maps, second, out=out)
        return out.addcmul_(g, first).to(x.dtype)


class PReLU:
    """PReLU with one slope, or one per channel."""

    def forward(self, module: nn.PReLU, x: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """See `Rule`."""
        return functional.prelu(x, module.weight.to(x.dtype)), (x,)

    def backward(self, entry: Entry, saved: Saved, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """See `Rule`."""
        (x,) = saved
        module = cast(nn.PReLU, entry.module)
        g = alike(g, x)
        positive = torch.ops.aten.threshold_backward(g, x, 0.0)
        negative = g - positive
        slopes = total(wide(x) * negative)
        entry.small("weight", slopes if module.weight.numel() > 1 else slopes.sum(1, keepdim=True))
        return positive.addcmul_(negative, spread(module.weight, x)) if wanted else None


class Affine:
    """A scale and a shift of each channel."""

    def forward(self, module: Any, x: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """See `Rule`."""
        return type(module).forward(module, x), (x,)

    def backward(self, entry: Entry, saved: Saved, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """See `Rule`."""
        (x,) = saved
        g = alike(g, x)
        if "weight" in entry.index:
            entry.small("weight", total(wide(g) * x))
        entry.small("bias", total(g))
        return g * spread(entry.module.weight, x) if wanted else None
