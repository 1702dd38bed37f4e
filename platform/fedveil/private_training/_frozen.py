"""Everything frozen but the trained tensors, for one pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn


@contextlib.contextmanager
def only(
    network: nn.Module, tensors: Sequence[nn.Parameter], leaves: list[torch.Tensor] | None = None
) -> Iterator[None]:
    """Let these parameters alone require a gradient inside the context, so that others cost nothing for theirs.

    Where autograd is to differentiate group norms, give `leaves`, and let it find the gradients of what each forward
    pass puts there, too. PyTorch's backward of a group norm of channels-last maps, on a processor, writes where it must
    not when its input needs no gradient (seen in 2.13: it crashes).
    """
    wanted = {id(tensor) for tensor in tensors}
    before = [(parameter, parameter.requires_grad) for parameter in network.parameters()]

    def as_leaf(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if leaves is None or args[0].requires_grad:
            return None
        leaves.append(args[0].detach().requires_grad_())
        return (leaves[-1],)

    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    handles = [] if leaves is None else [module.register_forward_pre_hook(as_leaf) for module in norms]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in wanted)
        with torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required in before:
            parameter.requires_grad_(required)
