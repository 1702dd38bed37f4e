"""A client's local steps as an attacker simulates them: differentiable, from the inputs to the update.

Class centres never leave a client, so the loss is unknown. All that a head does to a backbone is one vector per image:
the loss's slope at its embedding. The attacker takes these vectors as unknowns. Their sum over the images is what the
embedding's bias moved by, which gives the vector of a single image exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.func import functional_call

from fedveil.models.heads import base
from fedveil.records import Tensors


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Local steps as the attacker knows them; everything on one device.

    Attributes:
        network: the backbone, evaluating; its own values are not read.
        tensors: what the round sent.
        allowed: names of those that an update carries.
        rate: learning rate of the backbone.
        decay: weight decay.
        steps: how many.
    """

    network: nn.Module
    tensors: Mapping[str, torch.Tensor]
    allowed: tuple[str, ...]
    rate: float
    decay: float
    steps: int

    def observed(self, update: Tensors) -> list[torch.Tensor]:
        """Return the sum of the steps' gradients that an update shows, as if the decay were that of the first step."""
        device = next(iter(self.tensors.values())).device
        pull = self.steps * self.decay
        return [
            -torch.from_numpy(update[name]).to(device) / self.rate - pull * self.tensors[name] for name in self.allowed
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """What a white box holds beside: the head, its centres (K, D) at the round's start, their rate, and the labels."""

    head: base.Head
    centres: torch.Tensor
    rate: float
    labels: torch.Tensor


def simulated(
    work: Work, inputs: torch.Tensor, slopes: torch.Tensor, known: Known | None = None
) -> list[torch.Tensor]:
    """Return the sum of the gradients of a client's steps on inputs (B, C, H, W), differentiable; see `Work.observed`.

    Args:
        work: the steps.
        inputs: of every step.
        slopes: (B, D) the loss's slope at each embedding, the same in every step; not read with `known`.
        known: the head with its centres, which move with the steps.
    """
    own = {name: work.tensors[name].detach().requires_grad_() for name in work.allowed}
    first, total = own, [torch.zeros_like(tensor) for tensor in own.values()]
    centres = None if known is None else known.centres.detach().requires_grad_()
    for number in range(work.steps):
        embeddings = functional_call(work.network, {**work.tensors, **own}, (inputs,))
        if known is None or centres is None:
            loss, trained = (embeddings * slopes).sum(), [*own.values()]
        else:
            loss = base.loss(known.head, embeddings, centres, known.labels)
            trained = [*own.values(), centres]
        found = torch.autograd.grad(loss, trained, create_graph=True, allow_unused=True, materialize_grads=True)
        for place, name in enumerate(own):
            total[place] = total[place] + found[place] + work.decay * (own[name] - first[name])
        if number + 1 == work.steps:
            break
        own = {
            name: own[name] - work.rate * (found[place] + work.decay * own[name]) for place, name in enumerate(own)
        }
        if known is not None and centres is not None:
            centres = centres - known.rate * (found[-1] + work.decay * centres)
    return total


def cosine(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the cosine of two lists of tensors, each list one vector."""
    inner = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
    return inner / (norm(first) * norm(second)).clamp(min=1e-20)


def norm(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the length of a list of tensors, one vector."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()


def embedding_bias(work: Work) -> int | None:
    """Return the place of the embedding's bias among the allowed tensors, None where it does not leave."""
    last = [name for name, module in work.network.named_modules() if isinstance(module, nn.Linear)][-1:]
    name = f"{last[0]}.bias" if last else ""
    return work.allowed.index(name) if name in work.allowed else None
