"""What a layer contributes to its units' gradients: first squared norms, later its part of the clipped sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from fedveil.private_training import base

_SMALL = 1 << 14


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows that pass the network together, sorted by unit.

    Attributes:
        unit: (n,) int64 in 0..units-1, never falling.
        slices: (first row, end) of each unit, of which there are `units`; none is empty.
    """

    unit: torch.Tensor
    slices: Sequence[tuple[int, int]]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.slices)

    @property
    def single(self) -> bool:
        """Whether every unit has one row."""
        return len(self.slices) == len(self.unit)

    def by_unit(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of (n, ...) over each unit's rows: (U, ...)."""
        if self.single:
            return rows
        return rows.new_zeros(self.units, *rows.shape[1:]).index_add_(0, self.unit, rows)


class Share(Protocol):
    """One tensor's part of the gradients of all units of a `Part`.

    Attributes:
        index: which of the trained tensors.
        squares: (U,) float64 squared norms.
    """

    index: int
    squares: torch.Tensor

    def without(self, units: Sequence[int], part: Part) -> None:
        """Forget these units, whose values are not finite."""
        ...

    def add(self, total: torch.Tensor, factors: torch.Tensor, part: Part) -> None:
        """Add the sum over units of factors (U,) float64 times their gradients to `total`, or see to it later."""
        ...


class Rows:
    """Units' gradients as one tensor (U, ...), for small tensors and whatever comes out of a product of batches."""

    def __init__(
        self, index: int, gradients: torch.Tensor, arranged: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        """Take gradients (U, ...); `arranged` turns a flat sum of them into the tensor's shape, None: as they are."""
        self.index, self.gradients, self.arranged = index, gradients, arranged
        self.squares = base.squares(gradients.flatten(1))

    def without(self, units: Sequence[int], part: Part) -> None:
        """See `Share`."""
        self.gradients = self.gradients.clone()
        self.gradients[list(units)] = 0.0

    def add(self, total: torch.Tensor, factors: torch.Tensor, part: Part) -> None:
        """See `Share`."""
        flat = self.gradients.flatten(1)
        if self.arranged is None:
            total.view(-1).addmv_(flat.to(total.dtype).T, factors.to(total.dtype))
        else:
            total.add_(self.arranged(flat.to(total.dtype).T @ factors.to(total.dtype)))


class Kept:
    """Units' gradients as one tensor each, as the library's convolution gives them."""

    def __init__(self, index: int, gradients: list[torch.Tensor]) -> None:
        self.index, self.gradients = index, gradients
        if gradients[0].numel() < _SMALL:
            self.squares = torch.stack(torch._foreach_norm(gradients)).double().square()
        else:
            self.squares = torch.cat([base.squares(gradient.reshape(1, -1)) for gradient in gradients])

    def without(self, units: Sequence[int], part: Part) -> None:
        """See `Share`."""
        for unit in units:
            self.gradients[unit] = torch.zeros_like(self.gradients[unit])

    def add(self, total: torch.Tensor, factors: torch.Tensor, part: Part) -> None:
        """See `Share`."""
        for gradient, factor in zip(self.gradients, factors.tolist(), strict=True):
            if factor:
                total.add_(gradient, alpha=factor)


Contract = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A layer's inputs (B, ...) and output gradients (B, ...) to the gradient of its weight, summed over B."""


class Later:
    """A large tensor, of which only norms are known: its gradient is one product over all parts in the end.

    That is the book of Bu et al. 2022 (https://arxiv.org/abs/2210.00038): inputs and output gradients are kept, and the
    latter are scaled by their unit's factor.
    """

    def __init__(
        self, index: int, inputs: torch.Tensor, outputs: torch.Tensor, squares: torch.Tensor, contract: Contract,
        book: Book,
    ) -> None:  # fmt: skip
        self.index, self.squares = index, squares
        self.inputs, self.outputs = inputs.detach(), outputs.detach()  # what made them is not kept alive
        self.contract, self.book = contract, book

    def without(self, units: Sequence[int], part: Part) -> None:
        """See `Share`."""
        self.inputs, self.outputs = self.inputs.clone(), self.outputs.clone()
        for unit in units:
            first, end = part.slices[unit]
            self.inputs[first:end], self.outputs[first:end] = 0.0, 0.0

    def add(self, total: torch.Tensor, factors: torch.Tensor, part: Part) -> None:
        """See `Share`."""
        factor = factors[part.unit].to(base.summed(self.outputs))
        scaled = self.outputs * factor.view(-1, *[1] * (self.outputs.ndim - 1))
        self.book.later.setdefault(self.index, (self.contract, [], []))[1].append(self.inputs)
        self.book.later[self.index][2].append(scaled)


class Book:
    """What is written down in one pass: the shares of the part that runs, and what waits for the end.

    Attributes:
        part: the rows that pass now.
        shares: of this part.
        later: by tensor, its product and the inputs and scaled output gradients of all parts.
        seen: modules that ran in this part.
    """

    def __init__(self) -> None:
        self.part: Part
        self.shares: list[Share] = []
        self.later: dict[int, tuple[Contract, list[torch.Tensor], list[torch.Tensor]]] = {}
        self.seen: set[str] = set()

    def begin(self, part: Part) -> None:
        """Turn to the next part."""
        self.part, self.shares = part, []
        self.seen.clear()

    def close(self, sums: Sequence[torch.Tensor]) -> None:
        """Add what has waited to the sums."""
        for index, (contract, inputs, outputs) in self.later.items():
            sums[index].add_(contract(joined(inputs), joined(outputs)))
        self.later.clear()


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the parts behind each other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
