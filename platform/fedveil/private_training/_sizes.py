"""How much memory a step needs, found without computing anything: a pass over shapes on torch's meta device."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fedveil.private_training._products import gram_is_cheaper


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes, of one row unless said otherwise.

    Attributes:
        saved: what autograd keeps for the backward pass.
        largest: the largest map.
        kept: trained tensors whose gradients book-keeping makes for every row.
        later: inputs and output gradients of the tensors of which it takes norms alone.
        trained: all trained tensors, once.
        widest: the largest trained tensor, once.
    """

    saved: int
    largest: int
    kept: int
    later: int
    trained: int
    widest: int

    def plain(self, rows: int) -> int:
        """Return what a step of ordinary SGD needs beside the network: activations, gradients."""
        return rows * (self.saved + 2 * self.largest) + self.trained

    def loop(self, rows: int) -> int:
        """Return what the loop over units needs, `rows` passing together: a unit's gradient and the sums."""
        return rows * (self.saved + 2 * self.largest) + 2 * self.trained + self.widest

    def book_keeping(self, rows: int, batch: int) -> int:
        """Return what book-keeping needs in parts of `rows`, for a batch of so many rows."""
        made = rows * (self.saved + 4 * self.largest + self.kept)
        return made + batch * self.later + self.trained + self.widest

    def hooks(self, batch: int) -> int:
        """Return what Opacus's hooks need: every row's gradient, twice while one is summed up."""
        return batch * (self.saved + 4 * self.largest + self.trained + self.widest) + 2 * self.trained

    def ghost(self, batch: int) -> int:
        """Return what ghost clipping needs: every row's gradient of one layer at a time, and its columns."""
        return batch * (self.saved + 12 * self.largest + 2 * self.widest) + 2 * self.trained


_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[Any, Sizes]] = weakref.WeakKeyDictionary()


def measured(network: nn.Module, row: torch.Tensor, tensors: Sequence[nn.Parameter]) -> Sizes:
    """Return the sizes of a network for rows like `row` (1, C, H, W), of which only shape and type are read."""
    trained = {id(tensor) for tensor in tensors}
    key = (tuple(row.shape[1:]), row.dtype, frozenset(trained))
    known = _KNOWN.setdefault(network, {})
    if key not in known:
        known[key] = _measured(network, row, trained)
    return known[key]


def _measured(network: nn.Module, row: torch.Tensor, trained: set[int]) -> Sizes:
    kept = later = largest = 0
    own = {id(parameter): parameter.numel() * parameter.element_size() for parameter in network.parameters()}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal kept, later, largest
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
    meta = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(id(tensor) in trained)
        for name, tensor in network.named_parameters()
    }
    meta |= {name: torch.empty_like(buffer, device="meta") for name, buffer in network.named_buffers()}
    handles = [module.register_forward_hook(note) for module in network.modules()]
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (1,) or tensor.ndim == 0:  # a row's; what has no rows is the network's own
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
            torch.func.functional_call(network, meta, (torch.empty_like(row[:1], device="meta"),))
    finally:
        for handle in handles:
            handle.remove()
    mine = [size for identity, size in own.items() if identity in trained]
    bytes_saved = sum(tensor.numel() * tensor.element_size() for tensor in saved.values())
    return Sizes(bytes_saved, largest, kept, later, sum(mine), max(mine))
