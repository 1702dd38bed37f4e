"""Rules of linear maps and cosines, and of whatever multiplies: is a unit's gradient made, or its norm alone?

A gradient of n numbers that is made costs a pass of the weight's product and several of memory; its sum over units is
then cheap. The Gram trick finds the norm alone: |sum_t g_t a_t'|^2 = sum_st (a_s . a_t) (g_s . g_t), quadratic in the
number of positions T; the sum is then one ordinary product over the whole batch with rescaled output gradients
(https://arxiv.org/abs/2210.00038, https://arxiv.org/abs/2009.03106). What cancels in it must not be lost, so it is
taken in float64.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil.models.heads import base as heads
from fedveil.private_training._rules import Entry, Saved, wide
from fedveil.private_training._shares import Later, Part, Rows

# Nanoseconds on one core (AMD EPYC, 2026); their ratios decide, and differ little between machines.
_SINGLE, _DOUBLE = 0.02, 0.055  # a multiplication and addition of a product
_ALONE = 1.2  # a unit's product beside its share of a batch's
_TOUCHED = 1.2  # a number of a gradient that is made: written, squared, added


def gram_is_cheaper(positions: int, fan_in: int, fan_out: int) -> bool:
    """Return whether to find a unit's norm by the Gram trick, and its gradient not at all.

    >>> gram_is_cheaper(16, 2304, 256), gram_is_cheaper(4096, 288, 32), gram_is_cheaper(1, 4096, 512)
    (True, False, True)
    """
    numbers = fan_in * fan_out
    gram = positions**2 * (fan_in + fan_out) * _DOUBLE + positions * numbers * _SINGLE
    return gram < positions * numbers * _SINGLE * _ALONE + numbers * _TOUCHED


def gram_squares(inputs: torch.Tensor, outputs: torch.Tensor, part: Part) -> torch.Tensor:
    """Return units' squared norms (U,) float64 of sum_t g_t a_t', from a (n, T, D) and g (n, T, p)."""
    if inputs.shape[1] == 1 and part.single:
        return norms_squared(inputs[:, 0]) * norms_squared(outputs[:, 0])
    if part.single:
        a, g = inputs.double(), outputs.double()
        return (torch.bmm(a, a.transpose(1, 2)) * torch.bmm(g, g.transpose(1, 2))).sum((1, 2)).clamp(min=0.0)
    found = [_gram(inputs[first:end], outputs[first:end]) for first, end in part.slices]
    return torch.stack(found).clamp(min=0.0)


def _gram(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    a, g = inputs.flatten(0, 1).double(), outputs.flatten(0, 1).double()
    return ((a @ a.T) * (g @ g.T)).sum()


def norms_squared(rows: torch.Tensor) -> torch.Tensor:
    """Return squared norms (n,) float64 of the rows of (n, D)."""
    return rows.double().square().sum(1)


class Linear:
    """A linear map of the last dimension."""

    def forward(self, module: nn.Linear, x: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """See `Rule`."""
        x = x.to(computed(x))
        bias = None if module.bias is None else module.bias.to(x.dtype)
        return functional.linear(x, module.weight.to(x.dtype), bias), (x,)

    def backward(self, entry: Entry, saved: Saved, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """See `Rule`."""
        (x,) = saved
        module = cast(nn.Linear, entry.module)
        inputs, outputs = wide(x.reshape(len(x), -1, x.shape[-1])), wide(g.reshape(len(g), -1, g.shape[-1]))
        if "bias" in entry.index:
            entry.small("bias", outputs.sum(1))
        product(entry, inputs, outputs)
        return g @ module.weight.to(g.dtype) if wanted else None


def product(entry: Entry, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    """Write down the weight (p, D) of a layer whose gradient is sum_t g_t a_t', from a (n, T, D) and g (n, T, p)."""
    if "weight" not in entry.index:
        return
    index, book = entry.index["weight"], entry.book
    if gram_is_cheaper(inputs.shape[1], inputs.shape[2], outputs.shape[2]):
        squares = gram_squares(inputs, outputs, book.part)
        book.shares.append(Later(index, inputs, outputs, squares, _contracted, book))
    else:
        made = torch.bmm(outputs.transpose(1, 2), inputs)
        book.shares.append(Rows(index, book.part.by_unit(made)))


def _contracted(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    return outputs.flatten(0, -2).T @ inputs.flatten(0, -2)


class Cosine:
    """Cosines to the rows of a weight: v = x / |x| of each input, n_k = w_k / |w_k|, output v . n_k.

    The gradient of row k is (I - n_k n_k') sum_b g_bk v_b / |w_k|. The inner product of those of two inputs is then
    sum_k (g_bk g_ck / |w_k|^2) (v_b . v_c - (v_b . n_k) (v_c . n_k)), in float64 because a large cosine cancels.
    """

    def forward(self, module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """See `Rule`."""
        rows = heads.normalised(cast(torch.Tensor, module.weight))
        return heads.normalised(x) @ rows.T, (x, rows)

    def backward(self, entry: Entry, saved: Saved, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """See `Rule`."""
        x, rows = saved
        v = heads.normalised(x)
        if "weight" in entry.index:
            self._write(entry, v, g, rows)
        if not wanted:
            return None
        lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        long = lengths > heads._SMALLEST_NORM  # a shorter one is not normalised, so its gradient is not projected
        inner = g @ rows
        along = torch.where(long, (inner * v).sum(1, keepdim=True), 0.0)
        return (inner - along * v) / torch.where(long, lengths, 1.0)

    def _write(self, entry: Entry, v: torch.Tensor, g: torch.Tensor, rows: torch.Tensor) -> None:
        weight, part, book = entry.module.weight.detach(), entry.book.part, entry.book
        lengths = torch.linalg.vector_norm(weight.double(), dim=1)
        short = lengths <= heads._SMALLEST_NORM  # such a row is not normalised, so its gradient is not projected
        lengths = torch.where(short, 1.0, lengths)
        exact = torch.where(short[:, None], weight.double(), weight.double() / lengths[:, None])
        directions = torch.where(short[:, None], 0.0, exact)
        wide_v = v.double()
        scaled = g.double() / lengths
        along = scaled * (wide_v @ directions.T)
        inner = (scaled @ scaled.T) * (wide_v @ wide_v.T) - along @ along.T  # (n, n)
        if part.single:
            squares = inner.diagonal()
        else:
            same = part.unit[:, None] == part.unit
            squares = torch.zeros(part.units, dtype=inner.dtype, device=inner.device)
            squares.index_add_(0, part.unit, (inner * same).sum(1))

        def contract(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
            whole = (outputs.T @ inputs) / lengths[:, None].to(inputs.dtype)
            n = directions.to(inputs.dtype)
            return whole - n * (whole * n).sum(1, keepdim=True)

        book.shares.append(Later(entry.index["weight"], v, g, squares.clamp(min=0.0), contract, book))


def computed(x: torch.Tensor) -> torch.dtype:
    """Return the type in which a product of `x` is computed here: autocast's, where it is on."""
    kind = "cpu" if x.is_meta else x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
