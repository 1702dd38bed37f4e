"""The loop against torch.optim, the schedule against its definition, selection and head starts."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedveil import checks
from fedveil.federation import training
from fedveil.models.backbones.tiny_ir import TinyIR
from fedveil.models.heads import base
from fedveil.models.heads.arcface import ArcFace
from fedveil.models.heads.cosface import CosFace

HEAD = CosFace(scale=8.0, margin=0.2)
Batch = tuple[torch.Tensor, torch.Tensor]


def linear_backbone(seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return backbone


def some_batches(count: int, classes: int, seed: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(5, 3, 2, 2, generator=generator), torch.randint(0, classes, (5,), generator=generator))
        for _ in range(count)
    ]


def state(backbone: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in backbone.state_dict().values()]


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.01), (0.9, 0.01)])
def test_steps_equal_torch_optim(momentum: float, weight_decay: float) -> None:
    batches = some_batches(6, 3)
    mine, reference = linear_backbone(), linear_backbone()
    centres = training.head_init(3, 4, torch.Generator().manual_seed(3))
    reference_centres = centres.clone().requires_grad_()
    mean_loss = training.local_sgd(mine, centres, HEAD, batches, 0.1, momentum, weight_decay)
    optimiser = torch.optim.SGD(
        [*reference.parameters(), reference_centres], lr=0.1, momentum=momentum, weight_decay=weight_decay
    )
    losses = []
    for features, labels in batches:
        optimiser.zero_grad()
        loss = base.loss(HEAD, reference(features), reference_centres, labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert mean_loss == pytest.approx(np.mean(losses), rel=1e-5)
    torch.testing.assert_close(state(mine), state(reference), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(centres, reference_centres.detach(), atol=1e-6, rtol=1e-5)
    assert not centres.requires_grad


def test_rounds_without_momentum_join_without_a_seam() -> None:
    batches = some_batches(6, 3)
    whole, parts = linear_backbone(), linear_backbone()
    whole_centres = training.head_init(3, 4, torch.Generator().manual_seed(3))
    part_centres = whole_centres.clone()
    training.local_sgd(whole, whole_centres, HEAD, batches, 0.1)
    for start in (0, 2, 4):
        training.local_sgd(parts, part_centres, HEAD, batches[start : start + 2], 0.1)
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(parts), strict=True))
    assert torch.equal(whole_centres, part_centres)


def test_only_named_tensors_and_centres_change() -> None:
    backbone = linear_backbone()
    before = copy.deepcopy(backbone.state_dict())
    centres = training.head_init(3, 4, torch.Generator().manual_seed(3))
    start = centres.clone()
    training.local_sgd(backbone, centres, HEAD, some_batches(2, 3), 0.1, 0.9, 0.1, trainable=["3.weight"])
    changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"3.weight"}
    assert not torch.equal(centres, start)


def test_extra_negatives_are_fixed_and_act_as_classes() -> None:
    # Fixed rows behind the trained ones equal one long head whose last rows are put back after every step.
    batches = some_batches(4, 5)
    extra = training.head_init(2, 4, torch.Generator().manual_seed(4))
    first, second = linear_backbone(), linear_backbone()
    centres = training.head_init(3, 4, torch.Generator().manual_seed(3))
    both = torch.cat([centres, extra])
    kept = extra.clone()
    training.local_sgd(first, centres, HEAD, batches, 0.1, extra_negatives=extra)
    for batch in batches:
        training.local_sgd(second, both, HEAD, [batch], 0.1)
        both[3:] = extra
    assert torch.equal(extra, kept)
    torch.testing.assert_close(state(first), state(second), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(centres, both[:3], atol=1e-6, rtol=1e-5)


def test_restriction_by_groups_equals_separate_heads() -> None:
    # Classes {0, 1} and {2, 3, 4} never compete, so the loss of a batch is that of two heads, weighted by images.
    features, labels = some_batches(1, 5)[0]
    labels = torch.tensor([0, 1, 2, 3, 4])
    group = torch.tensor([0, 0, 1, 1, 1])
    backbone = linear_backbone()
    centres = training.head_init(5, 4, torch.Generator().manual_seed(3))
    expected = 0.0
    for which, first in ((0, 0), (1, 2)):
        inside = group[labels] == which
        loss = base.loss(HEAD, backbone(features[inside]), centres[group == which], labels[inside] - first)
        expected += loss.item() * int(inside.sum()) / 5
    restrict = group[:, None] == group[None, :]
    value = training.local_sgd(backbone, centres, HEAD, [(features, labels)], 0.1, restrict=restrict)
    assert value == pytest.approx(expected, rel=1e-5)
    assert all(torch.isfinite(tensor).all() for tensor in state(backbone))


def test_a_gradient_that_is_a_view_of_one_number_is_stepped_along() -> None:
    """The gradient of a sum is one number, expanded: weight decay may not be added to it in place."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(4))

        def with_penalty(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.flatten(1), self.shift.sum()

    network, centres = Shifted(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    batch = torch.randn(2, 4, 1, 1, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1])
    training.local_sgd(network, centres, HEAD, [batch], 0.1, weight_decay=0.5)
    torch.testing.assert_close(network.shift.detach(), torch.full((4,), 1 - 0.1 * (1 + 0.5)))


def test_no_batch_gives_nan_and_changes_nothing() -> None:
    backbone = linear_backbone()
    before = state(backbone)
    assert math.isnan(training.local_sgd(backbone, torch.ones(2, 4), HEAD, [], 0.1))
    assert all(torch.equal(a, b) for a, b in zip(before, state(backbone), strict=True))


def test_training_is_repeatable_and_independent_of_memory_layout() -> None:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(8) % 4

    def run(channels_last: bool) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        network = TinyIR(width=8, embedding=16).build(3, (16, 16), generator)
        if channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        centres = training.head_init(4, 16, generator)
        training.local_sgd(network, centres, ArcFace(scale=8.0), [(images, labels)] * 3, 0.05)
        return [*state(network), centres]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, again, other = run(False), run(False), run(True)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.testing.assert_close(first, other, atol=1e-5, rtol=1e-4)


def test_a_tiny_network_learns_ten_images() -> None:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(10, 3, 16, 16, generator=generator), torch.arange(10) % 5
    network = TinyIR(width=8, embedding=16).build(3, (16, 16), generator)
    centres = training.head_init(5, 16, generator)
    head = ArcFace(scale=16.0, margin=0.3)
    first = training.local_sgd(network, centres, head, [(images, labels)], 0.05)
    training.local_sgd(network, centres, head, [(images, labels)] * 40, 0.05)
    last = training.local_sgd(network, centres, head, [(images, labels)], 0.05)
    assert last < 0.2 * first
    assert torch.equal(base.cosine(network(images), centres).argmax(1), labels)


@pytest.mark.parametrize("settings_", [{"lr": 0.0}, {"lr": 0.1, "momentum": 1.0}, {"lr": 0.1, "weight_decay": -1.0}])
def test_bad_settings_are_refused_by_name(settings_: dict[str, float]) -> None:
    with pytest.raises(checks.UserError, match=list(settings_)[-1]):
        training.local_sgd(linear_backbone(), torch.ones(2, 4), HEAD, [], **settings_)


@pytest.mark.parametrize("restrict", [torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)])
def test_bad_restriction_is_refused(restrict: torch.Tensor) -> None:
    with pytest.raises(checks.UserError, match="restrict"):
        training.local_sgd(linear_backbone(), torch.ones(2, 4), HEAD, [], 0.1, restrict=restrict)


@settings(max_examples=60)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), start=st.integers(0, 30), cut=st.integers(0, 12))
def test_schedule_is_the_cut_chain_of_passes(count: int, batch_size: int, start: int, cut: int) -> None:
    size, steps = min(count, batch_size), 12
    whole = np.concatenate(list(training.batch_indices(count, batch_size, 7, "client", 3, steps=start + steps)))
    passes = [whole[k : k + count] for k in range(0, len(whole) - count + 1, count)]
    assert all(sorted(visited) == list(range(count)) for visited in passes)
    # Any division into rounds walks the same chain.
    later = list(training.batch_indices(count, batch_size, 7, "client", 3, start_step=start, steps=cut))
    later += training.batch_indices(count, batch_size, 7, "client", 3, start_step=start + cut, steps=steps - cut)
    assert all(len(batch) == size for batch in later)
    np.testing.assert_array_equal(np.concatenate(later), whole[start * size :])


def test_passes_clients_and_seeds_differ() -> None:
    def order(seed: int, *labels: str | int) -> list[list[int]]:
        return [batch.tolist() for batch in training.batch_indices(20, 20, seed, *labels, steps=2)]

    orders = [*order(1, "a"), *order(1, "b"), *order(2, "a"), *order(1, "a", 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


@given(count=st.integers(1, 100), batch_size=st.integers(1, 100), epochs=st.integers(1, 5))
def test_steps_for_epochs_is_the_least_that_suffices(count: int, batch_size: int, epochs: int) -> None:
    def fewest_visits(steps: int) -> int:
        batches = list(training.batch_indices(count, batch_size, 1, steps=steps))
        return int(np.bincount(np.concatenate([np.empty(0, np.int64), *batches]), minlength=count).min())

    steps = training.steps_for_epochs(count, batch_size, epochs)
    assert fewest_visits(steps) >= epochs
    assert steps * min(batch_size, count) - epochs * count < min(batch_size, count)


def test_select_trainable() -> None:
    names = [name for name, _ in TinyIR(width=8).build(3, (16, 16), torch.Generator()).named_parameters()]
    assert training.select_trainable(names, "all") == tuple(names)
    chosen = training.select_trainable(names, "embed.*, *norm?.bias")
    assert {"embed.weight", "embed.bias"} < set(chosen) < set(names)
    assert list(chosen) == [name for name in names if name in set(chosen)]
    with pytest.raises(checks.UserError, match=r"'embd\.\*'.*Did you mean 'embed'"):
        training.select_trainable(names, "stem.*,embd.*")
    with pytest.raises(checks.UserError, match=r"''"):
        training.select_trainable(names, "")


def test_head_init_is_of_unit_length_and_repeatable() -> None:
    rows = training.head_init(200, 64, torch.Generator().manual_seed(1))
    assert torch.equal(rows, training.head_init(200, 64, torch.Generator().manual_seed(1)))
    assert rows.norm(dim=1).mean().item() == pytest.approx(1.0, abs=0.05)
    assert abs(rows.mean().item()) < 0.01


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_update_with_one_value_that_is_not_finite_is_refused_whatever_the_loss(value: float) -> None:
    trained = [torch.zeros(3, 4), torch.zeros(5)]
    training.check_finite(0.1, trained, **{"train.lr": 0.1})
    training.check_finite(0.1, [torch.full((9,), 3e38)], **{"train.lr": 0.1})  # large, and its norm overflows
    trained[0][1, 2] = value
    with pytest.raises(checks.UserError, match="the update is not finite"):
        training.check_finite(0.1, trained, **{"train.lr": 0.1})
