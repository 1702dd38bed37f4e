"""Book-keeping: one forward, one backward for activations alone, norms layer by layer, one rescaled sum.

Ordinary autograd would compute every unit's gradient by a pass of its own, or write all of them down. Here the network
runs once (Bu et al. 2022, https://arxiv.org/abs/2210.00038): each layer finds its units' norms while it is visited
backwards, keeps small gradients and forgets large ones, whose clipped sum is one product in the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from fedveil import checks
from fedveil.private_training import _frozen, _recording, _sizes, base, loop
from fedveil.private_training._shares import Book, Part

_CACHED = 4 * 2**20  # bytes of the largest map up to which a part's maps stay in the caches of a processor
_STILL = 13 * 2**20  # the same for the first eight rows, which save more calls
FEWEST = 4
"""Rows of a part: with fewer, calls cost more than book-keeping saves."""


@dataclasses.dataclass(frozen=True)
class BookKeeping:
    """One forward and backward for many units; convolutions, linear maps, group norms, PReLU, affine maps, cosines.

    Attributes:
        rows: rows that pass the network together, at most (a unit of more passes as one); None: as many as
            `default_rows` says. The sum is the same up to rounding; few rows need little memory.
    """

    rows: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None:
            checks.positive(rows=self.rows)

    @torch.no_grad()
    def __call__(
        self, network: nn.Module, loss: base.Loss, batch: base.Batch, tensors: Sequence[nn.Parameter], clip: base.Clip
    ) -> base.ClippedSum:
        """See `base.Engine`; a module without a rule, one used twice, and a tensor used elsewhere are refused."""
        base.checked(network, tensors)
        book = Book()
        found = _recording.entries(network, tensors, book)
        sums = base.zeros(tensors)
        norms = torch.zeros(batch.units, dtype=torch.float64, device=batch.inputs.device)
        token = torch.zeros((), device=batch.inputs.device, requires_grad=True)
        spoilt: list[int] = []
        most = default_rows(network, batch, tensors) if self.rows is None else self.rows
        for units, rows, part in _parts(batch, most):
            inputs, labels, weight = (each[rows] for each in (batch.inputs, batch.labels, batch.weight))
            book.begin(part)
            with _frozen.only(network, tensors), _recording.taken_over(found, book, token):
                losses = base.losses(network, loss, inputs, labels)
                _recording.check_reached(losses, network)
                objective = (losses * weight).sum()
            if objective.requires_grad:  # else no trained tensor was reached
                torch.autograd.grad(objective, token, allow_unused=True)
            norms[units], bad = _written(book, sums, clip)
            spoilt += [int(units[number]) for number in bad]
        book.close(sums)
        for unit in spoilt:  # entry by entry, which norms alone cannot do
            norms[unit] = loop.add_unit(network, loss, batch, tensors, clip, sums, unit)
        return base.ClippedSum(sums, norms.to(base.summed(tensors[0])))


def default_rows(network: nn.Module, batch: base.Batch, tensors: Sequence[nn.Parameter]) -> int:
    """Return how many rows pass together where nobody says: all on a GPU, as many as fit the caches on a processor."""
    if batch.inputs.device.type != "cpu" or not len(batch.unit):
        return max(1, len(batch.unit))
    largest = max(1, _sizes.measured(network, batch.inputs[:1], tensors).largest)
    return max(FEWEST, _CACHED // largest, min(2 * FEWEST, _STILL // largest))


def _parts(batch: base.Batch, most: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | slice, Part]]:
    """Yield the units of each part, its rows, sorted by unit, and their order."""
    order = torch.argsort(batch.unit, stable=True)
    sorted_already = bool((batch.unit[1:] >= batch.unit[:-1]).all())
    counts = torch.bincount(batch.unit, minlength=batch.units)
    present = counts.nonzero()[:, 0]
    lengths = counts[present].tolist()
    first, number = 0, 0
    while number < len(lengths):
        end, last, slices = first, number, list[tuple[int, int]]()
        while last < len(lengths) and (last == number or end - first + lengths[last] <= most):
            slices.append((end - first, end - first + lengths[last]))
            end, last = end + lengths[last], last + 1
        units = present[number:last]
        local = torch.repeat_interleave(torch.arange(last - number, device=units.device), counts[units])
        yield units, slice(first, end) if sorted_already else order[first:end], Part(local, slices)
        first, number = end, last


def _written(book: Book, sums: Sequence[torch.Tensor], clip: base.Clip) -> tuple[torch.Tensor, list[int]]:
    """Add a part's clipped gradients to the sums; return its norms, and the numbers of units left out: not finite."""
    part = book.part
    squares = torch.zeros(part.units, len(sums), dtype=torch.float64, device=part.unit.device)
    for share in book.shares:
        squares[:, share.index] = share.squares
    fine = torch.isfinite(squares).all(1)
    bad = [] if bool(fine.all()) else torch.nonzero(~fine)[:, 0].tolist()
    factors = clip.factors(squares)
    if bad:
        factors = torch.where(fine[:, None], factors, 0.0)
    for share in book.shares:
        if bad:
            share.without(bad, part)
        share.add(sums[share.index], factors[:, share.index], part)
    return squares.sum(1).sqrt(), bad


METHOD = BookKeeping
