"""Partial class sampling: who competes, and SGD on exactly those."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedveil import checks
from fedveil.federation import classes, training
from fedveil.models.heads import base
from fedveil.models.heads.arcface import ArcFace

HEAD = ArcFace(scale=8.0, margin=0.2)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4))


def batches(count: int, people: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(5, 3, 2, 2, generator=generator), torch.randint(0, people, (5,), generator=generator))
        for _ in range(count)
    ]


@settings(max_examples=60)
@given(
    st.integers(1, 40),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=9),
    st.floats(0.01, 1.0),
    st.integers(0, 99),
)
def test_the_batch_s_own_compete_with_as_many_others_as_are_left(count, drawn, share, seed) -> None:
    own = [number % count for number in drawn]
    found = classes.sampled(torch.tensor(own), count, share, np.random.default_rng(seed)).tolist()
    assert found == sorted(set(found))
    assert set(own) <= set(found) <= set(range(count))
    assert len(found) == max(len(set(own)), math.ceil(share * count))


def test_others_are_drawn_uniformly() -> None:
    drawn = np.zeros(20)
    for seed in range(2000):
        drawn[classes.sampled(torch.tensor([3, 5]), 20, 0.4, np.random.default_rng(seed)).numpy()] += 1
    assert drawn[3] == drawn[5] == 2000
    others = np.delete(drawn, [3, 5])
    assert np.abs(others / 2000 - 6 / 18).max() < 5 * math.sqrt(2 / 9 / 2000)


def test_draws_are_of_one_client_and_step() -> None:
    labels = torch.tensor([0])
    one = classes.of_client(1000, 0.1, 1, "c0001", first=10)
    assert one is not None
    assert torch.equal(one(2, labels), classes.of_client(1000, 0.1, 1, "c0001", first=12)(0, labels))
    for other in (("c0002", 12), ("c0001", 13)):
        assert not torch.equal(one(2, labels), classes.of_client(1000, 0.1, 1, other[0], first=other[1])(0, labels))
    assert classes.of_client(1000, 1.0, 1, "c0001", first=0) is None


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_a_step_is_sgd_on_the_chosen_centres_alone(weight_decay: float) -> None:
    people = 12
    mine = network()
    reference = copy.deepcopy(mine)
    centres = training.head_init(people, 4, torch.Generator().manual_seed(3))
    expected = centres.clone()
    competing = classes.of_client(people, 0.4, 1, "c0001", first=0)
    loss = training.local_sgd(
        mine, centres, HEAD, batches(6, people), 0.1, weight_decay=weight_decay, centre_lr=0.5, competing=competing
    )
    losses = []
    for number, (images, labels) in enumerate(batches(6, people)):
        chosen = competing(number, labels)
        rows = expected[chosen].clone().requires_grad_()
        right = torch.tensor([chosen.tolist().index(label) for label in labels.tolist()])
        found = base.loss(HEAD, reference(images), rows, right)
        losses.append(found.item())
        parameters = [*reference.parameters()]
        for tensor, slope in zip(parameters, torch.autograd.grad(found, parameters, retain_graph=True), strict=True):
            tensor.data -= 0.1 * (slope + weight_decay * tensor.data)
        expected[chosen] = (rows - 0.5 * (torch.autograd.grad(found, rows)[0] + weight_decay * rows)).detach()
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert torch.allclose(centres, expected, atol=1e-6)
    for a, b in zip(mine.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_centres_that_did_not_compete_keep_every_bit() -> None:
    centres = training.head_init(50, 4, torch.Generator().manual_seed(3))
    before = centres.clone()
    competing = classes.of_client(50, 0.1, 1, "c0001", first=0)
    labels = torch.tensor([4, 4, 9, 9, 9])
    training.local_sgd(network(), centres, HEAD, [(torch.randn(5, 3, 2, 2), labels)], 0.1, competing=competing)
    moved = (centres != before).any(1).nonzero().flatten().tolist()
    assert {4, 9} <= set(moved) <= set(competing(0, labels).tolist())


@pytest.mark.parametrize(
    "more", [{"momentum": 0.9}, {"restrict": torch.ones(3, 3, dtype=torch.bool)}, {"extra_negatives": torch.eye(2, 4)}]
)
def test_what_would_need_all_centres_is_refused(more) -> None:
    competing = classes.of_client(3, 0.4, 1, "c0001", first=0)
    with pytest.raises(checks.UserError, match="competing without"):
        training.local_sgd(network(), torch.eye(3, 4), HEAD, batches(1, 3), 0.1, competing=competing, **more)
