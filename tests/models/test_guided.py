"""DuetFace's interactive block against a computation by hand, and which stage takes which mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedveil.checks import UserError
from fedveil.models import guided
from fedveil.models.backbones.iresnet18 import IResNet18
from fedveil.models.backbones.tiny_ir import TinyIR

GENERATOR = torch.Generator().manual_seed(3)


class Stages(nn.Module):
    """A backbone whose stages are the input averaged to given sides; it returns the last stage, flat."""

    def __init__(self, *sides: int) -> None:
        super().__init__()
        self.sides = sides
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, after=None) -> torch.Tensor:
        for side in self.sides:
            x = torch.nn.functional.adaptive_avg_pool2d(x, side)
            x = x if after is None else after(x)
            self.seen.append(x)
        return x.flatten(1)


def masks(batch: int, size: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.rand(batch, *shape, generator=GENERATOR) for shape in guided.mask_sizes(size)]


def inputs(planes: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([planes, guided.packed(parts, tuple(planes.shape[2:]))], 1)


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (112, 112)])
def test_the_plane_of_masks_comes_back_and_holds_nothing_else(size: tuple[int, int]) -> None:
    parts = masks(3, size)
    plane = guided.packed(parts, size)
    assert plane.shape == (3, 1, *size)
    count = 0
    for mask, back in zip(parts, guided.unpacked(plane), strict=True):
        assert torch.equal(back[:, 0], mask)
        for image in range(3):  # by hand: row-major, one after the other
            row = plane[image, 0].reshape(-1)[count : count + mask[image].numel()]
            assert row.tolist() == [value for line in mask[image].tolist() for value in line]
        count += math.prod(mask.shape[1:])
    assert not plane.flatten(1)[:, count:].any()


def test_a_mask_of_another_size_is_refused() -> None:
    parts = masks(1, (16, 16))
    with pytest.raises(UserError, match="mask"):
        guided.packed([parts[1], *parts[1:]], (16, 16))


def test_the_published_block_by_hand() -> None:
    planes = torch.randn(2, 5, 32, 32, generator=GENERATOR)
    parts = masks(2, (32, 32))
    backbone = Stages(8)  # a quarter of the side: the second mask
    network = guided.Guided(backbone, "published")
    with torch.no_grad():
        network.mask_weights.copy_(torch.tensor([5.0, -0.75, 5.0, 5.0]))
    out = network(inputs(planes, parts)).detach().view(2, 5, 8, 8).numpy()
    for image in range(2):
        for channel in range(5):
            for row in range(8):
                for column in range(8):
                    block = planes[image, channel, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].double()
                    s = 1.0 / (1.0 + math.exp(-float(block.mean())))
                    m = float(parts[1][image, row, column])
                    assert out[image, channel, row, column] == pytest.approx(s + -0.75 * m * s, abs=1e-5)


def test_the_normalised_block_is_the_published_one_without_mean_and_scale_per_eight_channels() -> None:
    planes = torch.randn(2, 16, 32, 32, generator=GENERATOR)
    parts = masks(2, (32, 32))
    published, normalised = (guided.Guided(Stages(8), gate) for gate in ("published", "normalised"))
    with torch.no_grad():
        for network in (published, normalised):
            network.mask_weights.fill_(0.5)
    plain = published(inputs(planes, parts)).detach().double().view(2, 2, 8 * 64).numpy()
    expected = (plain - plain.mean(2, keepdims=True)) / np.sqrt(plain.var(2, keepdims=True) + 1e-5)
    out = normalised(inputs(planes, parts)).detach().view(2, 2, 8 * 64).numpy()
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_at_weight_zero_only_the_sigmoid_is_left_and_the_weight_learns() -> None:
    planes = torch.randn(2, 8, 16, 16, generator=GENERATOR)
    network = guided.Guided(Stages(4), "published")
    out = network(inputs(planes, masks(2, (16, 16))))
    pooled = torch.nn.functional.avg_pool2d(planes, 4)
    torch.testing.assert_close(out.detach(), torch.sigmoid(pooled).flatten(1))
    out.sum().backward()
    gradient = network.mask_weights.grad
    assert gradient is not None
    assert gradient[1] > 0
    assert gradient[[0, 2, 3]].eq(0).all()


def test_a_size_is_taken_once_and_other_sizes_pass() -> None:
    planes = torch.randn(1, 8, 32, 32, generator=GENERATOR)
    backbone = Stages(32, 16, 16, 11, 2)
    guided.Guided(backbone, "published")(inputs(planes, masks(1, (32, 32))))
    same, first, second, odd, last = backbone.seen
    assert torch.equal(same, planes)
    assert bool(((first > 0) & (first < 1)).all())
    assert torch.equal(second, first), "the second stage of 16 pixels has no mask left"
    torch.testing.assert_close(odd, torch.nn.functional.adaptive_avg_pool2d(second, 11))
    assert not torch.equal(last, torch.nn.functional.adaptive_avg_pool2d(odd, 2))


@pytest.mark.parametrize(
    ("model", "used"),
    [(TinyIR(width=8, embedding=8), [1, 2]), (TinyIR(width=8, stages=4, embedding=8), [1, 2, 3]), (IResNet18(8), None)],
)
@pytest.mark.parametrize("gate", ["published", "normalised"])
def test_real_backbones_use_the_masks_of_their_stages(model, used: list[int] | None, gate: str) -> None:
    network = guided.Guided(model.build(3, (32, 32), torch.Generator().manual_seed(1)), gate)
    x = inputs(torch.randn(2, 3, 32, 32, generator=GENERATOR), masks(2, (32, 32)))
    network(x).square().sum().backward()
    gradient = network.mask_weights.grad
    assert gradient is not None
    assert gradient.nonzero().flatten().tolist() == (used if used is not None else [0, 1, 2, 3])
    assert not list(network.buffers())


def test_a_backbone_without_hooks_is_refused() -> None:
    with pytest.raises(UserError, match="Linear"):
        guided.Guided(nn.Linear(2, 2), "published")
