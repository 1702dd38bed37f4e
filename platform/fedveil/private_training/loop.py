"""The plain loop: one unit's gradient after another by ordinary autograd. The reference, and the least memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from fedveil import checks
from fedveil.private_training import _frozen, base

_SMALL = 1 << 14


@dataclasses.dataclass(frozen=True)
class Loop:
    """Forward and backward for each unit alone, clip, add. Any module whatever its parameters, as it mixes no rows.

    Attributes:
        rows: rows that pass the network together, at most; a unit of more is added up from parts before its clip.
    """

    rows: int = 8

    def __post_init__(self) -> None:
        checks.positive(rows=self.rows)

    def __call__(
        self, network: nn.Module, loss: base.Loss, batch: base.Batch, tensors: Sequence[nn.Parameter], clip: base.Clip
    ) -> base.ClippedSum:
        """See `base.Engine`."""
        base.checked(network, tensors)
        sums = base.zeros(tensors)
        norms = torch.zeros(batch.units, dtype=base.summed(tensors[0]), device=batch.inputs.device)
        order = torch.argsort(batch.unit, stable=True)
        counts = torch.bincount(batch.unit, minlength=batch.units).tolist()
        leaves: list[torch.Tensor] = []
        with _frozen.only(network, tensors, leaves):
            for unit, those in enumerate(torch.split(order, counts)):
                if len(those):
                    gradients = self._gradients(network, loss, batch, tensors, those, leaves)
                    norms[unit] = add_clipped(sums, gradients, clip)
        return base.ClippedSum(sums, norms)

    def _gradients(
        self, network: nn.Module, loss: base.Loss, batch: base.Batch, tensors: Sequence[nn.Parameter],
        rows: torch.Tensor, leaves: list[torch.Tensor],
    ) -> list[torch.Tensor]:  # fmt: skip
        """Return the gradient of the weighted loss of one unit's rows."""
        total: list[torch.Tensor] = []
        for part in torch.split(rows, self.rows):
            leaves.clear()
            losses = base.losses(network, loss, batch.inputs[part], batch.labels[part])
            objective = (losses * batch.weight[part]).sum()
            wanted = [*tensors, *leaves]
            found = torch.autograd.grad(objective, wanted, allow_unused=True, materialize_grads=True)[: len(tensors)]
            if total:
                torch._foreach_add_(total, found)
            else:
                total = list(found)
        return total


def add_unit(
    network: nn.Module, loss: base.Loss, batch: base.Batch, tensors: Sequence[nn.Parameter], clip: base.Clip,
    sums: Sequence[torch.Tensor], unit: int,
) -> torch.Tensor:  # fmt: skip
    """Add one unit of a batch to the sums, entry by entry, for engines that know no entries; return its norm."""
    rows = batch.unit == unit
    alone = base.Batch(
        batch.inputs[rows], batch.labels[rows], torch.zeros_like(batch.unit[rows]), batch.weight[rows], 1
    )
    found = Loop()(network, loss, alone, tensors, clip)
    torch._foreach_add_(list(sums), found.tensors)
    return found.norms[0]


def add_clipped(sums: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], clip: base.Clip) -> torch.Tensor:
    """Add one unit's gradient, clipped, to the sums in place, and return its norm before the clip."""
    squares = _squares(gradients)
    if not bool(torch.isfinite(squares).all()):
        gradients = [gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for gradient in gradients]
        squares = _squares([gradient.double() for gradient in gradients])  # finite float32 may have infinite squares
    factors = clip.factors(squares[None])[0]
    if clip.kind == "layers":
        scaled = [gradient * factor for gradient, factor in zip(gradients, factors.tolist(), strict=True)]
        torch._foreach_add_(list(sums), scaled)
    else:
        torch._foreach_add_(list(sums), list(gradients), alpha=float(factors[0]))
    return squares.sum().sqrt()


def _squares(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of squares of each tensor, float64."""
    small = [number for number, gradient in enumerate(gradients) if gradient.numel() < _SMALL]
    found = torch.empty(len(gradients), dtype=torch.float64, device=gradients[0].device)
    if small:
        norms = torch._foreach_norm([gradients[number] for number in small])
        found[small] = torch.stack(norms).double().square()
    for number, gradient in enumerate(gradients):
        if gradient.numel() >= _SMALL:
            found[number] = base.squares(gradient.reshape(1, -1))[0]
    return found


METHOD = Loop
