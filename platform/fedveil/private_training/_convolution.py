"""The rule of convolutions, with four ways to a unit's gradient or norm; shapes decide which."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil.private_training._products import computed, gram_is_cheaper, gram_squares
from fedveil.private_training._rules import Entry, Saved, alike, total, wide
from fedveil.private_training._shares import Book, Kept, Later, Rows, joined

FEW = 5_000_000
"""Multiplications of one row up to which columns of many rows cost less than a call for each row."""

_AT_ONCE = 2**26  # numbers of columns that exist at a time


class Conv2d:
    """A convolution of maps, grouped and depthwise ones too."""

    def forward(self, module: nn.Conv2d, x: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """See `Rule`."""
        x = x.to(computed(x))
        bias = None if module.bias is None else module.bias.to(x.dtype)
        return module._conv_forward(x, module.weight.to(x.dtype), bias), (x,)

    def backward(self, entry: Entry, saved: Saved, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """See `Rule`."""
        (x,) = saved
        module = cast(nn.Conv2d, entry.module)
        g = alike(g, x) if g.shape == x.shape else g
        if "bias" in entry.index:
            entry.small("bias", total(g))
        if "weight" in entry.index:
            self._write(entry, module, x, g)
        if not wanted:
            return None
        return _convolution_backward(module, x, g, input_=True)

    def _write(self, entry: Entry, module: nn.Conv2d, x: torch.Tensor, g: torch.Tensor) -> None:
        index, book, part = entry.index["weight"], entry.book, entry.book.part
        positions = math.prod(g.shape[2:])
        fan_in, fan_out = math.prod(module.weight.shape[1:]), module.out_channels
        pointwise = module.kernel_size == (1, 1) and module.groups == 1 and module.padding == (0, 0)
        if pointwise:
            seen = x[:, :, :: module.stride[0], :: module.stride[1]]
            inputs, outputs = _positions(wide(seen)), _positions(wide(g))
            if gram_is_cheaper(positions, fan_in, fan_out):
                squares = gram_squares(inputs, outputs, part)
                later(book, index, module, x, g, squares)
            else:
                made = torch.bmm(outputs.transpose(1, 2), inputs)
                book.shares.append(Rows(index, part.by_unit(made)))
        elif module.groups == 1 and gram_is_cheaper(positions, fan_in, fan_out):
            later(book, index, module, x, g, gram_squares(_columns(module, x), _positions(wide(g)), part))
        elif module.groups == 1 and (positions * fan_in * fan_out <= FEW or x.is_cuda):  # a GPU is idle between calls
            room = max(1, _AT_ONCE // (positions * fan_in))
            pieces = zip(torch.split(x, room), torch.split(g, room), strict=True)
            made = joined([_made(module, a, b) for a, b in pieces])
            book.shares.append(Rows(index, part.by_unit(made), functools.partial(_arranged, module)))
        elif module.groups == module.in_channels == module.out_channels:
            book.shares.append(Rows(index, part.by_unit(_folded(module, wide(x), wide(g)))))
        else:
            x, g = wide(x), wide(g)
            book.shares.append(Kept(index, [_convolution_backward(module, x[a:b], g[a:b]) for a, b in part.slices]))


def later(book: Book, index: int, module: nn.Conv2d, x: torch.Tensor, g: torch.Tensor, squares: torch.Tensor) -> None:
    """Let a convolution's weight wait for the end."""

    def contract(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        return _convolution_backward(module, wide(inputs), wide(outputs))

    book.shares.append(Later(index, x, g, squares, contract, book))


def _convolution_backward(module: nn.Conv2d, x: torch.Tensor, g: torch.Tensor, input_: bool = False) -> torch.Tensor:
    """Return the gradient of the weight (summed over rows), or of the input."""
    found = torch.ops.aten.convolution_backward(
        g, x, module.weight.detach().to(g.dtype), None, module.stride, module.padding, module.dilation, False, [0, 0],
        module.groups, [input_, not input_, False],
    )  # fmt: skip
    return cast(torch.Tensor, found[0 if input_ else 1])


def _folded(module: nn.Conv2d, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return every row's gradient (n, C, 1, h, w) of a depthwise weight: rows become channels of one image."""
    rows, channels = x.shape[:2]
    weight = module.weight.detach().to(g.dtype).repeat(rows, 1, 1, 1)
    found = torch.ops.aten.convolution_backward(
        g.reshape(1, -1, *g.shape[2:]), x.reshape(1, -1, *x.shape[2:]), weight, None, module.stride, module.padding,
        module.dilation, False, [0, 0], rows * channels, [False, True, False],
    )[1]  # fmt: skip
    return cast(torch.Tensor, found.view(rows, *module.weight.shape))


def _columns(module: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Return what each output position sees: (n, T, h w C), channels last, where whole stretches are copied at once.

    `functional.unfold` copies single numbers, which takes five times as long.
    """
    (high, wide_), (down, right) = _pair(module.padding), _pair(module.stride)
    maps = functional.pad(wide(x).permute(0, 2, 3, 1), (0, 0, wide_, wide_, high, high)).contiguous()
    sides = [
        (maps.shape[axis] - module.dilation[axis - 1] * (module.kernel_size[axis - 1] - 1) - 1)
        // module.stride[axis - 1]
        + 1
        for axis in (1, 2)
    ]
    row, step = maps.stride(1), maps.stride(2)
    strides = (maps.stride(0), row * down, step * right, row * module.dilation[0], step * module.dilation[1], 1)
    seen = maps.as_strided((len(maps), *sides, *module.kernel_size, maps.shape[3]), strides)
    return seen.reshape(len(maps), sides[0] * sides[1], -1)


def _made(module: nn.Conv2d, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return every row's gradient (n, p, h w C)."""
    with _tensor_cores(x.is_cuda and x.dtype == torch.bfloat16 and g.dtype == torch.bfloat16):
        return torch.bmm(_positions(wide(g)).transpose(1, 2), _columns(module, x))


@contextlib.contextmanager
def _tensor_cores(exact: bool) -> Iterator[None]:
    """Let a GPU multiply float32 in TensorFloat-32 where that is exact: of numbers that were bfloat16 before."""
    before = torch.backends.cuda.matmul.allow_tf32
    if exact:
        torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        if exact:
            torch.backends.cuda.matmul.allow_tf32 = before


def _arranged(module: nn.Conv2d, flat: torch.Tensor) -> torch.Tensor:
    """Return a product with `_columns`, (p h w C,) in all, as the weight (p, C, h, w)."""
    return flat.view(module.out_channels, *module.kernel_size, -1).permute(0, 3, 1, 2)


def _positions(maps: torch.Tensor) -> torch.Tensor:
    """Return (n, C, H, W) as (n, H W, C)."""
    return maps.flatten(2).transpose(1, 2)


def _pair(sides: tuple[int, ...] | str) -> tuple[int, int]:
    assert not isinstance(sides, str)  # `_recording` refuses words
    return sides[0], sides[1]
