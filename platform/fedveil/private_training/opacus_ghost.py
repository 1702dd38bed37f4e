"""Opacus's ghost clipping: norms first, then a second backward pass of the reweighted loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from fedveil import checks
from fedveil.private_training import _opacus, base, loop


@dataclasses.dataclass(frozen=True)
class OpacusGhost:
    """Opacus 1.6, `GradSampleHooksFastGradientClipping` (https://arxiv.org/abs/2110.05679): one row per unit only."""

    def __call__(
        self, network: nn.Module, loss: base.Loss, batch: base.Batch, tensors: Sequence[nn.Parameter], clip: base.Clip
    ) -> base.ClippedSum:
        """See `base.Engine`; units of several rows, and clip.kind="layers", are refused."""
        base.checked(network, tensors)
        _opacus.check(network)
        if clip.kind == "layers" or len(torch.unique(batch.unit)) != len(batch.unit):
            raise checks.UserError(
                "Opacus's ghost clipping has one factor per row: it knows neither units of several rows nor "
                f"clip.kind='layers', got kind={clip.kind!r}. Choose gradients=book_keeping."
            )
        sums = base.zeros(tensors)
        norms = torch.zeros(batch.units, dtype=torch.float64, device=batch.inputs.device)
        if not len(batch.unit):
            return base.ClippedSum(sums, norms.to(base.summed(tensors[0])))
        with _opacus.hooked(network, tensors, "GradSampleHooksFastGradientClipping", max_grad_norm=clip.bound) as hooks:
            weighted = (
                base.losses(network, loss, _opacus.fed(network, tensors, batch.inputs), batch.labels) * batch.weight
            )
            weighted.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            found_norms = [getattr(tensor, "_norm_sample", None) for tensor in tensors]  # None: not reached
            squares = torch.stack([each.double().square() for each in found_norms if each is not None], 1)
            fine = torch.isfinite(squares).all(1)
            factors = clip.factors(squares)[:, 0].to(weighted.dtype)
            hooks.disable_hooks()
            if not bool(fine.all()):  # a zero times NaN would spoil the sum, so such rows are left out
                some = (_opacus.fed(network, tensors, batch.inputs[fine]), batch.labels[fine])
                weighted, factors = base.losses(network, loss, *some) * batch.weight[fine], factors[fine]
            for tensor in tensors:
                tensor.grad = None
            (weighted * factors).sum().backward()  # type: ignore[no-untyped-call]
            for total, tensor in zip(sums, tensors, strict=True):
                total += 0.0 if tensor.grad is None else tensor.grad
        norms[batch.unit] = squares.sum(1).sqrt()
        for unit in batch.unit[~fine].tolist():
            norms[unit] = loop.add_unit(network, loss, batch, tensors, clip, sums, unit)
        return base.ClippedSum(sums, norms.to(base.summed(tensors[0])))


METHOD = OpacusGhost
