"""What a round moved: local minus global, in one pass that also checks it and puts the network back.

A pass over a large model costs as much as the memory is slow. Taking the difference, looking whether it is finite and
loading the global tensors for the next client of the round are three passes over the same values; here each block of
them is fetched once. The bits are those of the three.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil.federation import packed
from fedveil.federation.tensors import set_parameters
from fedveil.records import Tensors

Room = Callable[[tuple[int, ...]], NDArray[np.float32]]
"""Shape -> an uninitialised array of it."""

_BLOCK = 1 << 16  # numbers: three arrays' blocks fit into a core's cache
_AT: weakref.WeakKeyDictionary[nn.Module, tuple[Tensors, list[int]]] = weakref.WeakKeyDictionary()
"""Network -> the tensors that it was put back to, and how often Torch had changed each of its own by then."""


def begin(network: nn.Module, parameters: Mapping[str, torch.Tensor], tensors: Tensors) -> None:
    """Let a network begin at the global tensors: load them, unless `taken` has left it there.

    Args:
        network: of this process, which nobody trains but those who call this first.
        parameters: its own, by name.
        tensors: the global ones. Only the very same object, of values that nobody can change, is loaded once.
    """
    there, changes = _AT.pop(network, (None, []))
    if there is not tensors or changes != _changes(parameters):
        set_parameters(parameters, tensors)


def taken(
    network: nn.Module, parameters: Mapping[str, torch.Tensor], names: Sequence[str], tensors: Tensors, room: Room
) -> dict[str, NDArray[np.float32]] | None:
    """Return local minus global of the trained tensors, float32; None if any value of it is not finite.

    Args:
        network: trained since `begin`. On the processor it is put back to `tensors` where nobody can change these, as
            they are while a round goes on.
        parameters: its own, by name.
        names: those that were trained; the others are as `begin` left them.
        tensors: the global ones, finite.
        room: gives the memory that the difference is written to.
    """
    update = {name: room(tuple(parameters[name].shape)) for name in names}
    back = all(parameters[name].device.type == "cpu" for name in names)
    back = back and not any(values.flags.writeable for values in tensors.values())
    finite = True
    for name, moved in update.items():
        local = parameters[name].detach().cpu().numpy()
        for after, before, difference in _blocks(local, tensors[name], moved):
            np.subtract(after, before, out=difference)
            finite = packed.all_finite(difference) and finite
            if back:
                np.copyto(after, before)
    if not finite:
        return None
    if back:
        _AT[network] = tensors, _changes(parameters)
    return update


def _changes(parameters: Mapping[str, torch.Tensor]) -> list[int]:
    """Return how often Torch has changed each tensor in place: whoever trains without `begin` shows here."""
    return [parameter._version for parameter in parameters.values()]


def _blocks(*arrays: NDArray[np.float32]) -> Iterator[list[NDArray[np.float32]]]:
    """Yield equal blocks of arrays of one shape, as views; whole arrays where memory is not in their order."""
    if not all(array.flags.c_contiguous for array in arrays):
        yield [*arrays]
        return
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _BLOCK):
        yield [array[start : start + _BLOCK] for array in flat]
