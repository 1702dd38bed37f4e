"""Opacus's hooks on a network for one pass, and everything they leave behind taken away again."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from fedveil import checks
from fedveil.private_training import _frozen

_LEFT = ("grad_sample", "_forward_counter", "_current_grad_sample", "_norm_sample")


def check(network: nn.Module) -> None:
    """Raise `UserError` where Opacus is missing, or the network is not in training mode, in which alone it records."""
    if importlib.util.find_spec("opacus") is None:
        raise checks.UserError(
            "This engine needs Opacus: pip install 'opacus>=1.6,<1.7', or take gradients=book_keeping."
        )
    if not network.training:
        raise checks.UserError("Opacus records nothing of a network in evaluation mode; call network.train() first.")


@contextlib.contextmanager
def hooked(network: nn.Module, tensors: Sequence[nn.Parameter], kind: str, **settings: Any) -> Iterator[Any]:
    """Attach Opacus's hooks `kind`; a trained tensor's `.grad` is as before afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        import opacus.grad_sample
    before = [tensor.grad for tensor in tensors]
    with _frozen.only(network, tensors), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # the stem's input needs no gradient
        for tensor in tensors:
            tensor.grad = None
        handles = [
            module.register_forward_pre_hook(_channels_first)
            for module in network.modules()
            if isinstance(module, nn.modules.conv._ConvNd)
        ]
        hooks = getattr(opacus.grad_sample, kind)(network, loss_reduction="sum", strict=True, **settings)
        try:
            yield hooks
        finally:
            hooks.remove_hooks()
            for handle in handles:
                handle.remove()
            for tensor, gradient in zip(tensors, before, strict=True):
                tensor.grad = gradient
            for parameter in network.parameters():
                for name in _LEFT:
                    if hasattr(parameter, name):
                        delattr(parameter, name)
            for module in network.modules():
                for name in ("activations", "max_batch_len"):
                    vars(module).pop(name, None)


def fed(network: nn.Module, tensors: Sequence[nn.Parameter], inputs: torch.Tensor) -> torch.Tensor:
    """Return the inputs, which require a gradient where parameters are frozen: for the reason in `_frozen.only`."""
    frozen = len(tensors) < sum(1 for _ in network.parameters())
    return inputs.detach().requires_grad_() if frozen else inputs


def _channels_first(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return a convolution's input in the one memory order that Opacus 1.6 reads rightly.

    Its `unfold2d` takes strides for those of a contiguous tensor: of channels-last maps it computes other gradients, of
    other norms, and so no clip.
    """
    return tuple(each.contiguous() for each in args)


def samples(tensor: nn.Parameter, rows: int) -> torch.Tensor:
    """Return what the hooks left at a tensor, (n, ...); zero where the forward pass did not reach it."""
    found = getattr(tensor, "grad_sample", None)
    return torch.zeros(rows, *tensor.shape, device=tensor.device, dtype=tensor.dtype) if found is None else found
