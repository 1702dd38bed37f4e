"""What a client's local steps follow beside the loss: terms of the shared network's tensors, which never leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Pull = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""The network's trained tensors and their gradients -> what the step follows, new tensors in the same order."""


def proximal(start: Sequence[torch.Tensor], strength: float) -> Pull:
    """Return the pull of strength / 2 |w - start|^2 added to the loss (FedProx, https://arxiv.org/abs/1812.06127).

    It keeps a client's long local work near the tensors that the round began with. Class centres are not pulled: they
    are the client's own, and nobody sent them.

    Args:
        start: what the round began with; copied.
        strength: mu of the paper, 0 or more; a step of rate lr goes lr * strength of the way back.
    """
    anchors = [tensor.detach().clone() for tensor in start]

    def pulled(tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        away = torch._foreach_sub(list(tensors), anchors)
        return torch._foreach_add(list(gradients), away, alpha=strength)

    return pulled


def without(control: Sequence[torch.Tensor]) -> Pull:
    """Return the pull that takes constants, such as a client's control variate, out of its gradients."""

    def pulled(tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        here = [value.to(slope.device) for value, slope in zip(control, gradients, strict=True)]
        return torch._foreach_sub(list(gradients), here)

    return pulled


def joined(parts: Sequence[Pull]) -> Pull:
    """Return several pulls as one; each adds its own term, so their order does not matter."""

    def pulled(tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        for part in parts:
            gradients = part(tensors, gradients)
        return gradients

    return pulled
