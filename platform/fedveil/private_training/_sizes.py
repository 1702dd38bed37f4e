"""How much memory a step needs, found by one forward pass of a row of zeros, once per network and shape."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fedveil.private_training import _frozen
from fedveil.private_training._convolution import FEW
from fedveil.private_training._products import gram_is_cheaper

_SPREAD = 1.5  # resident over counted bytes on a processor: allocators leave holes (glibc, measured: 1.4 to 1.8)
LOW = 0.45  # of a plain step's memory
_LIBRARY = 16 * 2**20  # what PyTorch's libraries take for their own use once a backward pass has run


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes, of one row unless said otherwise; and what each way needs of them, with what allocators add.

    Attributes:
        saved: what autograd keeps for the backward pass.
        largest: the largest map.
        kept: trained tensors whose gradients book-keeping makes for every row.
        later: inputs and output gradients of the tensors of which it takes norms alone.
        columns: what one layer's product is made of, at most: inputs by position.
        trained: all trained tensors, once.
        widest: the largest trained tensor, once.
        host: whether in the memory of a processor.
    """

    saved: int
    largest: int
    kept: int
    later: int
    columns: int
    trained: int
    widest: int
    host: bool = True

    def _with_room(self, counted: int) -> int:
        return int(_SPREAD * counted) + _LIBRARY if self.host else counted

    def plain(self, rows: int) -> int:
        """Return what a step of ordinary SGD needs beside the network: activations, gradients."""
        return self._with_room(rows * (self.saved + 2 * self.largest) + self.trained)

    def low(self, rows: int) -> int:
        """Return what a step in little memory may need: `LOW` of a plain one's, the libraries' own apart."""
        fixed = self._with_room(0)
        return fixed + int(LOW * (self.plain(rows) - fixed))

    def loop(self, rows: int) -> int:
        """Return what the loop over units needs, `rows` passing together: a unit's gradient and the sums."""
        return self._with_room(rows * (self.saved + 2 * self.largest) + 2 * self.trained + self.widest)

    def book_keeping(self, rows: int, batch: int) -> int:
        """Return what book-keeping needs in parts of `rows`, for a batch of so many rows."""
        made = rows * (self.saved + 4 * self.largest + self.kept + 2 * self.columns)
        return self._with_room(made + batch * self.later + self.trained + self.widest)

    def hooks(self, batch: int) -> int:
        """Return what Opacus's hooks need: every row's gradient, twice while one is summed up."""
        return self._with_room(batch * (self.saved + 4 * self.largest + self.trained + self.widest) + 2 * self.trained)

    def ghost(self, batch: int) -> int:
        """Return what ghost clipping needs: every row's gradient of one layer at a time, and its columns."""
        return self._with_room(batch * (self.saved + 12 * self.largest + 2 * self.widest) + 2 * self.trained)


_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[Any, Sizes]] = weakref.WeakKeyDictionary()


def measured(network: nn.Module, row: torch.Tensor, tensors: Sequence[nn.Parameter]) -> Sizes:
    """Return the sizes of a network for rows like those of `row` (B, C, H, W), of which no number is read."""
    trained = {id(tensor) for tensor in tensors}
    key = (tuple(row.shape[1:]), row.dtype, row.device.type, frozenset(trained))
    known = _KNOWN.setdefault(network, {})
    if key not in known:
        known[key] = _measured(network, row, tensors)
    return known[key]


def _measured(network: nn.Module, row: torch.Tensor, tensors: Sequence[nn.Parameter]) -> Sizes:
    trained = {id(tensor) for tensor in tensors}
    kept = later = largest = columns = 0
    own = {id(parameter): parameter.numel() * parameter.element_size() for parameter in network.parameters()}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal kept, later, largest, columns
        if not isinstance(output, torch.Tensor):
            return
        size = output.element_size()
        largest = max(largest, output.numel() * size)
        weight = getattr(module, "weight", None)
        if name_of.get(id(module)) not in trained or not isinstance(weight, torch.Tensor):
            return
        if isinstance(module, nn.Conv2d):
            positions, inner = math.prod(output.shape[2:]), math.prod(weight.shape[1:])
            gram = module.groups == 1 and gram_is_cheaper(positions, inner, weight.shape[0])
            if gram or positions * weight.numel() <= FEW:
                columns = max(columns, positions * inner * max(4, size))
        else:
            gram = weight.ndim == 2
        if gram:
            later += (args[0].numel() + output.numel()) * size
        else:
            kept += weight.numel() * max(4, weight.element_size())

    name_of = {
        id(module): id(module.weight)
        for module in network.modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    handles = [module.register_forward_hook(note) for module in network.modules()]
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (1,) or tensor.ndim == 0:  # a row's; what has no rows is the network's own
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _frozen.only(network, tensors):
            network(row.new_zeros(1, *row.shape[1:]))
    finally:
        for handle in handles:
            handle.remove()
    mine = [size for identity, size in own.items() if identity in trained]
    bytes_saved = sum(tensor.numel() * tensor.element_size() for tensor in saved.values())
    return Sizes(bytes_saved, largest, kept, later, columns, sum(mine), max(mine), row.device.type == "cpu")
