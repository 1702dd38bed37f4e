"""Terms beside the loss: their gradient against autograd of the penalty that they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fedveil.federation import pulls, training
from fedveil.models.heads import base
from fedveil.models.heads.cosface import CosFace

HEAD = CosFace(scale=8.0, margin=0.2)


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(5, 3, 2, 2, generator=generator), torch.randint(0, 3, (5,), generator=generator))
        for _ in range(count)
    ]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("strength", [0.3, 4.0])
def test_fedprox_is_sgd_on_the_loss_with_the_penalty_written_out(strength: float, weight_decay: float) -> None:
    mine = network()
    reference, start = copy.deepcopy(mine), copy.deepcopy(mine)
    centres = training.head_init(3, 4, torch.Generator().manual_seed(3))
    other = centres.clone().requires_grad_()
    pull = pulls.proximal([*mine.parameters()], strength)
    training.local_sgd(mine, centres, HEAD, batches(5), 0.05, weight_decay=weight_decay, pull=pull)
    optimiser = torch.optim.SGD([*reference.parameters(), other], lr=0.05, weight_decay=weight_decay)
    for images, labels in batches(5):
        optimiser.zero_grad()
        away = zip(reference.parameters(), start.parameters(), strict=True)
        penalty = sum(((now - then.detach()) ** 2).sum() for now, then in away)
        (base.loss(HEAD, reference(images), other, labels) + strength / 2 * penalty).backward()
        optimiser.step()
    for found, expected in zip(mine.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(centres, other, atol=1e-6)


def test_a_stronger_pull_stays_nearer_and_the_first_step_is_free() -> None:
    distances = []
    for strength in (0.0, 1.0, 5.0):
        trained, start = network(), network()
        pull = pulls.proximal([*trained.parameters()], strength)
        training.local_sgd(trained, torch.eye(3, 4), HEAD, batches(20), 0.1, pull=pull)
        pairs = zip(trained.parameters(), start.parameters(), strict=True)
        distances.append(float(sum((a - b).detach().square().sum() for a, b in pairs)))
    assert distances == sorted(distances, reverse=True)
    free, held = network(), network()
    training.local_sgd(free, torch.eye(3, 4), HEAD, batches(1), 0.1)
    training.local_sgd(held, torch.eye(3, 4), HEAD, batches(1), 0.1, pull=pulls.proximal([*held.parameters()], 9.0))
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), held.parameters(), strict=True))


def test_only_trained_tensors_are_pulled() -> None:
    trained = network()
    before = copy.deepcopy(trained)
    pull = pulls.proximal([trained[3].weight], 2.0)
    training.local_sgd(trained, torch.eye(3, 4), HEAD, batches(4), 0.1, trainable=["3.weight"], pull=pull)
    assert not torch.equal(trained[3].weight, before[3].weight)
    assert torch.equal(trained[1].weight, before[1].weight)
