"""Learning a budget's logits on public faces: a closed-form start, then the recognition loss through the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from fedveil.configuration import plugins
from fedveil.models.heads import base as heads
from fedveil.protections.base import Progress

_BATCHES = (16, 64)  # smallest and largest; in between as many images as fit the number of values below
_VALUES = 4_000_000
_SIDE = 64
_EMBEDDING = 64


@dataclass(frozen=True)
class Draft:
    """A mechanism on public faces before its weights are known.

    Attributes:
        state: maps weights to a full state, differentiable.
        noise_variance: maps a state to the variance of its noise, in the shape of the weights, differentiable.
        second: mean square of each coefficient, in the shape of the weights.
    """

    state: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    noise_variance: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
    second: torch.Tensor


def unit_noise(like: torch.Tensor, law: str, generator: torch.Generator) -> torch.Tensor:
    """Return noise of variance 1 for *public* faces only; what protects somebody comes from `privacy.noise`."""
    if law == "gaussian":
        return torch.randn(like.shape, generator=generator).to(like.device)
    centred = torch.rand(like.shape, generator=generator).to(like.device).clamp(min=1e-7) - 0.5
    return -centred.sign() * torch.log1p(-2.0 * centred.abs().clamp(max=0.5 - 1e-7)) / math.sqrt(2.0)


class Adam:
    """Adam (https://arxiv.org/abs/1412.6980), by hand: importing torch.optim costs longer than a quick fit."""

    def __init__(self, groups: Sequence[tuple[Sequence[torch.Tensor], float]]) -> None:
        self._slots = [(p, lr, torch.zeros_like(p), torch.zeros_like(p)) for group, lr in groups for p in group]
        self._steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter from its gradient, then drop the gradients."""
        self._steps += 1
        for parameter, lr, first, second in self._slots:
            if parameter.grad is None:
                continue
            first.lerp_(parameter.grad, 0.1)
            second.lerp_(parameter.grad.square(), 0.001)
            mean, square = first / (1 - 0.9**self._steps), second / (1 - 0.999**self._steps)
            parameter.addcdiv_(mean, square.sqrt().add_(1e-8), value=-lr)
            parameter.grad = None


def minimise(objective: Callable[[], torch.Tensor], parameters: Sequence[torch.Tensor], steps: int, lr: float) -> None:
    """Take `steps` Adam steps on `parameters` in place."""
    optimiser = Adam([(parameters, lr)])
    for _ in range(steps):
        torch.autograd.backward(objective())
        optimiser.step()


def through_recognition(
    features: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
    parameters: Sequence[torch.Tensor],
    labels: torch.Tensor,
    generator: torch.Generator,
    steps: int,
    lr: float,
    progress: Progress | None,
) -> None:
    """Train logits and a small recogniser together on noised public faces; only the logits are kept.

    The noise is fresh in every step and reparameterised, scale times a unit draw, so the loss sees the scales (as
    published). The generator is a *public* one: these faces are nobody's secret.

    Inputs of more than 64 pixels a side are averaged over 2x2 for the small network, if its sides stay multiples of 8:
    finer detail counts for little there.

    Args:
        features: maps (B,) image indices and a generator to the noised network input (B, C, H, W), with a graph to
            `parameters`.
        parameters: logits, updated in place with learning rate `lr`.
        labels: (N,) int64 identities 0..K-1 of the public faces.
        generator: public randomness of batches, noise and initial weights.
        steps: optimiser steps.
        lr: learning rate of the logits; the network's is fixed.
        progress: told after each step.
    """

    def fed(index: torch.Tensor) -> torch.Tensor:
        values = features(index, generator)
        height, width = values.shape[2:]
        halve = min(height, width) > _SIDE and height % 16 == 0 and width % 16 == 0
        return functional.avg_pool2d(values, 2) if halve else values

    probe = fed(torch.zeros(1, dtype=torch.int64))
    batch = min(max(_VALUES // probe.numel(), _BATCHES[0]), _BATCHES[1], len(labels))
    network = plugins.build("model", "tiny_ir", {"embedding": _EMBEDDING}).build(
        int(probe.shape[1]), (int(probe.shape[2]), int(probe.shape[3])), generator
    ).to(probe.device)
    head = plugins.build("head", "cosface", {"scale": 24.0, "margin": 0.2})
    centres = torch.randn(int(labels.max()) + 1, _EMBEDDING, generator=generator).to(probe.device)
    centres.requires_grad_(True)
    optimiser = Adam([([*network.parameters(), centres], 2e-3), (parameters, lr)])
    for step in range(steps):
        chosen = torch.randint(len(labels), (batch,), generator=generator)
        loss = heads.loss(head, network(fed(chosen)), centres, labels[chosen])
        torch.autograd.backward(loss)
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
