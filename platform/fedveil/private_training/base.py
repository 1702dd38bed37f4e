"""What an engine is: from a batch to the sum of its units' gradients, each clipped before it is added.

The clip is the step that bounds what one unit (an image, or all images of a person) can change. No noise is added here,
and nothing here is divided by a count: both belong to the caller, who knows the public constants.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import nn

from fedveil import checks
from fedveil.privacy.clipping import MARGIN

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Outputs (B, K) and labels (B,) to losses (B,), where no row's loss depends on another row."""

Kind = Literal["whole", "layers", "automatic"]

_LARGE = 1 << 14  # numbers from which a float32 sum of squares is taken in parts
_PART = 1024


@dataclasses.dataclass(frozen=True)
class Batch:
    """One physical batch: a part of a logical one, or the whole; it holds whole units only.

    Attributes:
        inputs: (B, C, H, W) float32, or float64 for a network in float64.
        labels: (B,) int64.
        unit: (B,) int64 in 0..units-1, the privacy unit of each row: views of one image, or images of one person,
            share one.
        weight: (B,) floats of at least 0: what a row's loss counts for in its unit. 1 / views averages an image's views
            before the clip; otherwise an image would be clipped once for each view.
        units: U; a unit without rows has a gradient of zero. With B = 0 it may be 0.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    unit: torch.Tensor
    weight: torch.Tensor
    units: int

    def __post_init__(self) -> None:
        rows = len(self.inputs)
        checks.non_negative(units=self.units)
        checks.same_shape((rows,), labels=self.labels.shape, unit=self.unit.shape, weight=self.weight.shape)
        if self.unit.dtype != torch.int64 or self.labels.dtype != torch.int64:
            raise checks.UserError(f"Expected int64, got labels of {self.labels.dtype} and unit of {self.unit.dtype}.")
        if not rows or self.inputs.is_meta:
            return
        low, high = (int(edge) for edge in torch.aminmax(self.unit))
        if low < 0 or high >= self.units:
            raise checks.UserError(f"Expected unit in 0..{self.units - 1}, got {low}..{high}; units={self.units}.")
        if not bool((torch.isfinite(self.weight) & (self.weight >= 0)).all()):
            raise checks.UserError("Expected every weight to be finite and at least 0; 1 / views averages views.")


@dataclasses.dataclass(frozen=True)
class Clip:
    """How a unit's gradient g is brought into the ball of radius C; one factor per unit, or per unit and tensor.

    | kind | factor | |
    |---|---|---|
    | "whole" | min(1, C / norm of g) | DP-SGD, https://arxiv.org/abs/1607.00133 |
    | "layers" | min(1, (C / sqrt L) / norm of the tensor's part), for each of L tensors | McMahan et al. 2018, \
https://arxiv.org/abs/1710.06963 |
    | "automatic" | C / (norm of g + gamma): every unit counts, nothing to tune | Bu et al. 2023, \
https://arxiv.org/abs/2206.07136 |

    Guarantee of all three, for any input: the clipped gradient's norm is at most C (1 + 1e-6), entries that are not
    finite having become 0 before the norm. So one unit more or less moves the sum by at most that, one replaced unit by
    twice that.

    Attributes:
        bound: C, positive.
        kind: see above.
        gamma: the stability constant of "automatic", positive.
    """

    bound: float
    kind: Kind = "whole"
    gamma: float = 0.01

    def __post_init__(self) -> None:
        checks.positive(bound=self.bound, gamma=self.gamma)
        checks.one_of(("whole", "layers", "automatic"), kind=self.kind)

    def factors(self, squares: torch.Tensor) -> torch.Tensor:
        """Return what each unit's gradient is multiplied by: (U, L) from squared norms of its L tensors (U, L).

        A norm that is infinite, or NaN, has the factor 0.
        """
        norms = squares.sum(1, keepdim=True).sqrt()
        bound = self.bound * (1 - MARGIN)  # of rounding in what follows
        if self.kind == "layers":
            norms, bound = squares.sqrt(), bound / math.sqrt(max(1, squares.shape[1]))
        found = bound / (norms + self.gamma) if self.kind == "automatic" else (bound / norms).clamp(max=1.0)
        return torch.where(torch.isfinite(norms), found, 0.0).expand_as(squares)


@dataclasses.dataclass(frozen=True)
class ClippedSum:
    """What an engine returns.

    Attributes:
        tensors: one per trained tensor and of its shape: the sum over units of clip(sum_i weight_i grad loss_i).
            float32, or float64 for parameters in float64.
        norms: (U,) norms before the clip, entries that are not finite being 0. They describe the owner's images: they
            never leave, and no log has them.
    """

    tensors: list[torch.Tensor]
    norms: torch.Tensor


class Engine(Protocol):
    """One way to find the sum; all agree up to rounding, so a choice of engine is no matter of privacy."""

    def __call__(
        self, network: nn.Module, loss: Loss, batch: Batch, tensors: Sequence[nn.Parameter], clip: Clip
    ) -> ClippedSum:
        """Return the sum over the batch's units of their clipped gradients.

        The network's values, its mode and what requires a gradient are as before afterwards.

        Args:
            network: (B, C, H, W) to outputs (B, K), row by row: nothing in it mixes rows.
            loss: separable over rows.
            batch: may be empty; the sum is zero then.
            tensors: the parameters to train, at least one; others cost nothing that they need not.
            clip: how a unit is clipped.

        Raises:
            fedveil.checks.UserError: a network that mixes rows, or that this engine has no rule for; by name, with the
                remedy, before any gradient is computed.
        """
        ...


def checked(network: nn.Module, tensors: Sequence[nn.Parameter]) -> list[str]:
    """Return the names of the trained tensors; refuse what no engine can train.

    Raises:
        fedveil.checks.UserError: no tensors, a tensor twice or not of the network, or a module that mixes rows.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    if not tensors or len({id(tensor) for tensor in tensors}) != len(tensors):
        raise checks.UserError(f"Expected tensors to be different and at least one, got {len(tensors)}.")
    for number, tensor in enumerate(tensors):
        if id(tensor) not in names:
            raise checks.UserError(
                f"Expected tensors of the network, but tensors[{number}] of shape {tuple(tensor.shape)} is none; put "
                "whatever is trained into one module (Classifier does so with the class centres)."
            )
    for name, module in network.named_modules():
        mixing = isinstance(module, nn.modules.batchnorm._NormBase) and module.training
        if mixing and (module.track_running_stats or not isinstance(module, nn.modules.instancenorm._InstanceNorm)):
            raise checks.UserError(
                f"{name or 'the network'} ({type(module).__name__}) mixes the images of a batch, so no image has a "
                "gradient of its own. Put GroupNorm in its place, or a frozen scale and shift (norm=affine)."
            )
    return [names[id(tensor)] for tensor in tensors]


def zeros(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return where sums go: a zero for every tensor, float32, or float64 for a tensor in float64."""
    return [torch.zeros_like(tensor, dtype=summed(tensor), requires_grad=False) for tensor in tensors]


def summed(tensor: torch.Tensor) -> torch.dtype:
    """Return the type of sums and norms for a parameter: never below float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def squares(rows: torch.Tensor) -> torch.Tensor:
    """Return the sum of squares of each row of (U, n) in float64; inf only where an entry or a square overflows.

    Long rows are added in parts: a float32 sum over a million squares would be off by 1e-5.
    """
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.float()
    rest = rows.shape[1] % _PART if rows.shape[1] >= _LARGE else rows.shape[1]
    cut = rows.shape[1] - rest
    total: torch.Tensor = torch.linalg.vector_norm(rows[:, cut:], dim=1).double().square()
    if cut:
        parts = torch.linalg.vector_norm(rows[:, :cut].reshape(len(rows), -1, _PART), dim=2)
        total = total + parts.double().square().sum(1)
    return total


def losses(network: nn.Module, loss: Loss, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the rows' losses (B,).

    Raises:
        fedveil.checks.UserError: `loss` does not return one number per row.
    """
    found = loss(network(inputs), labels)
    if found.shape != labels.shape:
        raise checks.UserError(
            f"Expected loss to return one number per row, shape {tuple(labels.shape)}, got {tuple(found.shape)}; leave "
            "out its mean (reduction='none'): a mean over the batch mixes images."
        )
    return found
