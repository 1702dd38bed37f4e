"""Training an attacker's network; which of its states is kept is decided on people of his that it never saw."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator

import torch
from torch import nn

from fedveil.attacks.base import Progress
from fedveil.device import Place
from fedveil.federation import training

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""(network, inputs, answers) to a scalar, a mean over the batch."""

Batch = tuple[torch.Tensor, torch.Tensor]
_LOOKS, _BATCH = 10, 64


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What training came to.

    Attributes:
        loss: of the kept state on held-out people.
        steps: at which the losses were looked at.
        losses: on held-out people.
    """

    loss: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def curve(self) -> dict[str, object]:
        """The losses over the steps, for a finding."""
        return {
            "x": list(self.steps), "y": list(self.losses), "x_name": "training steps", "y_name": "held-out loss",
        }  # fmt: skip


def learn(
    network: nn.Module, loss: Loss, batches: Generator[Batch], held: Batch, steps: int, lr: float, place: Place,
    progress: Progress, what: str, weight_decay: float = 0.0,
) -> Learnt:  # fmt: skip
    """Train a network in place with AdamW (Adam without decay), and leave it in its best state on held-out people.

    The learning rate falls along half a cosine to a hundredth. The first look is before the first step.

    Raises:
        fedveil.checks.UserError: training diverged.
    """
    wanted = [tensor for tensor in network.parameters() if tensor.requires_grad]
    optimiser = torch.optim.AdamW(wanted, lr=lr, weight_decay=weight_decay)
    best, kept = math.inf, _values(network)
    looked: list[tuple[int, float]] = []

    def look(step: int) -> None:
        nonlocal best, kept
        found = held_loss(network, loss, held)
        looked.append((step, found))
        if found < best:
            best, kept = found, _values(network)

    look(0)
    every = max(1, math.ceil(steps / _LOOKS))
    with contextlib.closing(place.ahead(batches)) as prepared:
        for step, (inputs, answers) in enumerate(prepared, start=1):
            for group in optimiser.param_groups:
                group["lr"] = lr * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - 1) / steps)))
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss(network, inputs, answers))
            optimiser.step()
            progress(what, step, steps)
            if step % every == 0 or step == steps:
                look(step)
    training.check_finite(best, wanted, **{"attack.lr": lr})
    network.load_state_dict(kept)
    network.eval()
    return Learnt(best, tuple(step for step, _ in looked), tuple(found for _, found in looked))


@torch.no_grad()
def held_loss(network: nn.Module, loss: Loss, held: Batch) -> float:
    """Return the mean loss on held-out people."""
    network.eval()
    total = 0.0
    for inputs, answers in zip(*(torch.split(part, _BATCH) for part in held), strict=True):
        total += float(loss(network, inputs, answers)) * len(inputs)
    network.train()
    return total / len(held[0])


def _values(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
