"""One update's part in a sum: its norm, then its clipped numbers, block by block and never as one float64 vector.

An update is read twice, in float32 as it came, and nothing of its size is made. Both passes run on all cores, and the
bits do not depend on how many there are (`fedveil.blocks`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import blocks
from fedveil.records import Tensors

Sum = NDArray[np.float64]


class Block(NamedTuple):
    """Some numbers of one tensor: `inside` the flattened tensor, and where they lie in the `whole` vector."""

    name: str
    inside: slice
    whole: slice


class Layout:
    """Where the tensors of an update lie in one vector, and its blocks, which end where a tensor does.

    Attributes:
        size: numbers in the vector.
        blocks: in the order of the vector.

    >>> layout = Layout({"a": (2, 3), "b": ()}, ["a", "b"])
    >>> layout.size, [(block.name, block.whole.start, block.whole.stop) for block in layout.blocks]
    (7, [('a', 0, 6), ('b', 6, 7)])
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], allowed: Sequence[str]) -> None:
        self.size = 0
        self.blocks: list[Block] = []
        for name in allowed:
            length = math.prod(shapes[name])
            for inside in blocks.spans(length):
                self.blocks.append(Block(name, inside, slice(self.size + inside.start, self.size + inside.stop)))
            self.size += length


@dataclasses.dataclass(frozen=True)
class Length:
    """What the first pass finds.

    Attributes:
        norm: L2 norm over all tensors together, entries that are not finite counted as zero; finite for any float32.
        finite: whether all entries are.
    """

    norm: float
    finite: bool


def length(tensors: Tensors, layout: Layout) -> Length:
    """Return an update's norm, off by a few parts in 1e15.

    Squares of float32 numbers are exact in float64, and neither overflow nor vanish there. A block's squares are added
    pairwise, all relative errors below 1e-14; the blocks' sums are added exactly and rounded once.
    """
    flat = _flat(tensors, layout)
    squares, finite = [0.0] * len(layout.blocks), [True] * len(layout.blocks)

    def work(number: int, scratch: blocks.Scratch) -> None:
        values = _read(flat, layout.blocks[number], scratch)
        squares[number] = _squared(values)
        if not math.isfinite(squares[number]):  # only an entry that is not finite makes such a sum
            finite[number] = False
            squares[number] = _squared(zeroed(_read(flat, layout.blocks[number], scratch)))

    blocks.each(work, range(len(layout.blocks)), layout.size)
    return Length(math.sqrt(math.fsum(squares)), all(finite))


def add(
    total: Sum, tensors: Tensors, layout: Layout, factor: float, finite: bool,
    addend: Callable[[torch.Tensor], torch.Tensor],
) -> None:  # fmt: skip
    """Add `addend(factor * update)` to a sum (d,), in place; entries that are not finite are zero.

    Args:
        total: the sum so far.
        tensors: the update.
        layout: of both.
        factor: at most 1; clips.
        finite: what `length` found.
        addend: the noise's: what a unit contributes to a sum, number by number (`noise.Noise.addend`).
    """
    flat = _flat(tensors, layout)

    def work(block: Block, scratch: blocks.Scratch) -> None:
        values = _read(flat, block, scratch)
        if not finite:
            zeroed(values)
        values *= factor
        total[block.whole] += addend(torch.from_numpy(values)).numpy()

    blocks.each(work, layout.blocks, layout.size)


def zeroed(values: Sum) -> Sum:
    """Return the values with zeros in place of what is not finite; they are changed."""
    np.copyto(values, 0.0, where=~np.isfinite(values))
    return values


def _flat(tensors: Tensors, layout: Layout) -> dict[str, NDArray[np.float32]]:
    return {name: tensors[name].reshape(-1) for name in {block.name for block in layout.blocks}}


def _read(flat: Mapping[str, NDArray[np.float32]], block: Block, scratch: blocks.Scratch) -> Sum:
    values = scratch[: block.inside.stop - block.inside.start]
    with np.errstate(invalid="ignore"):  # a NaN that signals is a value like any other
        values[:] = flat[block.name][block.inside]
    return values


def _squared(values: Sum) -> float:
    """Return the sum of squares; the values are used up."""
    return float(np.add.reduce(np.multiply(values, values, out=values)))
