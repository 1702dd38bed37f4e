"""A module's parameters as named arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks


def get_tensors(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return float32 copies of a module's parameters; modules with buffers are refused."""
    if any(True for _ in module.buffers()):
        raise checks.UserError("A backbone must have no buffers (use GroupNorm): they would need rules of their own.")
    host = {name: tensor.detach().cpu() for name, tensor in module.named_parameters()}
    return {name: tensor.numpy().astype(np.float32, copy=True) for name, tensor in host.items()}


def set_tensors(module: nn.Module, tensors: Any) -> None:
    """Copy tensors into a module's parameters; a missing name or another shape is refused."""
    set_parameters(dict(module.named_parameters()), tensors)


def set_parameters(parameters: Mapping[str, torch.Tensor], tensors: Any) -> None:
    """Copy tensors into parameters by name; a missing name or another shape is refused."""
    for name, parameter in parameters.items():
        if name not in tensors or tuple(tensors[name].shape) != tuple(parameter.shape):
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise checks.UserError(f"Expected tensor {name} of shape {tuple(parameter.shape)}, got {found}.")
        own = parameter.detach()
        if own.device.type == "cpu":
            np.copyto(own.numpy(), tensors[name], casting="same_kind")  # torch would warn of read-only ones
        else:
            own.copy_(torch.from_numpy(np.array(tensors[name], dtype=np.float32)))
