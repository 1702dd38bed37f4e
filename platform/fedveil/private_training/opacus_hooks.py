"""Opacus's hooks: every row's gradient is written down. What the other engines are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from fedveil.private_training import _opacus, base


@dataclasses.dataclass(frozen=True)
class OpacusHooks:
    """Opacus 1.6, `GradSampleHooks` (https://arxiv.org/abs/2109.12298): memory for every row's whole gradient."""

    def __call__(
        self, network: nn.Module, loss: base.Loss, batch: base.Batch, tensors: Sequence[nn.Parameter], clip: base.Clip
    ) -> base.ClippedSum:
        """See `base.Engine`."""
        base.checked(network, tensors)
        _opacus.check(network)
        sums = base.zeros(tensors)
        dtype = base.summed(tensors[0])
        rows = len(batch.unit)
        if not rows:
            return base.ClippedSum(sums, torch.zeros(batch.units, dtype=dtype, device=batch.inputs.device))
        with _opacus.hooked(network, tensors, "GradSampleHooks"):
            losses = base.losses(network, loss, _opacus.fed(network, tensors, batch.inputs), batch.labels)
            (losses * batch.weight).sum().backward()  # type: ignore[no-untyped-call]
            gradients = [self._by_unit(_opacus.samples(tensor, rows), batch) for tensor in tensors]
        squares = torch.stack([base.squares(gradient) for gradient in gradients], 1)
        if not bool(torch.isfinite(squares).all()):
            gradients = [gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for gradient in gradients]
            squares = torch.stack([base.squares(gradient.double()) for gradient in gradients], 1)
        factors = clip.factors(squares).to(dtype)
        for total, gradient, factor in zip(sums, gradients, factors.T, strict=True):
            total.view(-1).addmv_(gradient.T, factor)
        return base.ClippedSum(sums, squares.sum(1).sqrt().to(dtype))

    def _by_unit(self, rows: torch.Tensor, batch: base.Batch) -> torch.Tensor:
        """Return (U, n) from the rows' gradients (B, ...)."""
        flat = rows.flatten(1)
        if batch.units == len(flat) and bool((batch.unit[1:] > batch.unit[:-1]).all()):
            return flat
        return flat.new_zeros(batch.units, flat.shape[1]).index_add_(0, batch.unit, flat)


METHOD = OpacusHooks
