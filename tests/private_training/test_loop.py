"""The loop, which the other engines are compared with, against gradients written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedveil import checks
from fedveil.private_training import base, choice, classifier, loop


class Linear(nn.Module):
    """Outputs W x of flat images: the gradient of sum(outputs * labels) is written down by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs.flatten(1))


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return outputs.gather(1, labels[:, None])[:, 0]


def batch(units: list[int], weight: list[float], count: int, scale: float = 3.0) -> base.Batch:
    inputs = scale * torch.randn(len(units), 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return base.Batch(inputs, torch.arange(len(units)) % 2, torch.tensor(units), torch.tensor(weight), count)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_views_are_averaged_and_then_clipped(rows: int) -> None:
    network = Linear()
    mixed = batch([2, 0, 2, 0, 3], [0.5, 0.5, 0.5, 0.5, 1.0], 4)
    found = loop.Loop(rows)(network, loss, mixed, [network.layer.weight], base.Clip(1.5))
    expected = torch.zeros(2, 4)
    for unit in range(4):
        gradient = torch.zeros(2, 4)
        for row in range(5):
            if mixed.unit[row] == unit:
                gradient[mixed.labels[row]] += mixed.weight[row] * mixed.inputs[row].flatten()
        norm = gradient.norm()
        torch.testing.assert_close(found.norms[unit], norm)
        expected += gradient * min(1.0, 1.5 / max(1e-9, float(norm)))
    torch.testing.assert_close(found.tensors[0], expected, rtol=3e-6, atol=1e-7)


def test_the_three_clips_stay_in_the_ball() -> None:
    gradients = torch.tensor([[9.0, 16.0], [0.0, 0.04], [0.0, 0.0]], dtype=torch.float64)  # squared
    whole = base.Clip(1.0).factors(gradients)
    assert whole[0].tolist() == pytest.approx([0.2, 0.2], rel=2e-6)
    assert whole[1:].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    layers = base.Clip(1.0, "layers").factors(gradients)
    assert layers[0].tolist() == pytest.approx([1 / 3 / math.sqrt(2), 1 / 4 / math.sqrt(2)], rel=2e-6)
    assert layers[1].tolist() == [1.0, 1.0]
    automatic = base.Clip(1.0, "automatic", gamma=0.5).factors(gradients)
    assert automatic[:, 0].tolist() == pytest.approx([1 / 5.5, 1 / 0.7, 2.0], rel=2e-6)
    for factors in (whole, layers, automatic):
        assert bool(((gradients * factors.square()).sum(1) <= 1.0).all())


def test_values_that_are_not_finite_become_zero_before_the_norm() -> None:
    network = Linear()
    spoilt = batch([0, 1], [1.0, 1.0], 2, scale=1.0)
    spoilt.inputs[0, 0, 0, 0], spoilt.inputs[0, 0, 0, 1], spoilt.inputs[0, 0, 1, 0] = math.nan, math.inf, 3e30
    found = loop.Loop()(network, loss, spoilt, [network.layer.weight], base.Clip(1.0))
    assert found.norms[0] == pytest.approx(3e30)
    alone = base.Batch(spoilt.inputs[1:], spoilt.labels[1:], torch.tensor([0]), torch.ones(1), 1)
    other = loop.Loop()(network, loss, alone, [network.layer.weight], base.Clip(1.0))
    difference = found.tensors[0] - other.tensors[0]
    assert difference[0].tolist() == pytest.approx([0.0, 0.0, 1.0, 0.0], abs=2e-6)
    assert difference[1].tolist() == pytest.approx([0.0] * 4, abs=1e-6)


@pytest.mark.parametrize("units", [0, 3])
def test_an_empty_batch_is_zero(units: int) -> None:
    network = Linear()
    empty = base.Batch(
        torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0),
        units,
    )  # fmt: skip
    found = loop.Loop()(network, loss, empty, [network.layer.weight], base.Clip(1.0))
    assert found.norms.tolist() == [0.0] * units
    assert found.tensors[0].tolist() == [[0.0] * 4] * 2


def test_long_sums_of_squares_are_exact() -> None:
    """A float32 sum over two million squares is off by 3e-6, which no clip can make good."""
    rows = torch.rand(1, 2_097_153, generator=torch.Generator().manual_seed(1)) + 0.3
    assert float(base.squares(rows)) == pytest.approx(float(rows.double().square().sum()), rel=1e-7)


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    tensors = list(network.parameters())
    one = batch([0], [1.0], 1)
    with pytest.raises(checks.UserError, match=r"1 \(BatchNorm2d\) mixes the images"):
        loop.Loop()(network, loss, one, tensors, base.Clip(1.0))
    base.checked(network.eval(), tensors)  # frozen statistics mix nothing
    with pytest.raises(checks.UserError, match=r"tensors\[0\] of shape \(3,\) is none"):
        base.checked(network, [nn.Parameter(torch.zeros(3))])
    with pytest.raises(checks.UserError, match="at least one, got 0"):
        base.checked(network, [])
    plain = Linear()
    with pytest.raises(checks.UserError, match="reduction='none'"):
        loop.Loop()(plain, lambda out, labels: out.mean(), one, [plain.layer.weight], base.Clip(1.0))
    with pytest.raises(checks.UserError, match=r"unit in 0..0, got 1..1"):
        batch([1], [1.0], 1)
    with pytest.raises(checks.UserError, match="weight"):
        batch([0], [-1.0], 1)
    with pytest.raises(checks.UserError, match="Did you mean 'loop'"):
        choice.engine("lop")


def test_a_network_is_left_as_it_was() -> None:
    network = classifier.Classifier(Linear(), torch.randn(3, 2))
    network.head.weight.requires_grad_(False)
    loop.Loop()(network, loss, batch([0], [1.0], 1), [network.backbone.layer.weight], base.Clip(1.0))
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False]
    assert all(parameter.grad is None for parameter in network.parameters())
