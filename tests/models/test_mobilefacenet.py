"""MobileFaceNet against its published table, and what DuetFace's client taps."""

from __future__ import annotations

import math

import pytest
import torch

from fedveil import checks
from fedveil.models.backbones.mobilefacenet import MobileFaceNet

# Table 1 of arXiv 1804.07573: side of the input, operator, expansion, channels, repetitions, stride.
TABLE = [
    (112, "conv", 1, 64, 1, 2),
    (56, "depthwise", 1, 64, 1, 1),
    (56, "bottleneck", 2, 64, 5, 2),
    (28, "bottleneck", 4, 128, 1, 2),
    (14, "bottleneck", 2, 128, 6, 1),
    (14, "bottleneck", 4, 128, 1, 2),
    (7, "bottleneck", 2, 128, 2, 1),
    (7, "pointwise", 1, 512, 1, 1),
    (7, "global", 1, 512, 1, 1),
]


def published_weights(embedding: int) -> int:
    """Weights of all convolutions and the last linear map, row by row from the table."""
    channels, total = 3, 0
    for side, operator, expansion, out, count, _ in TABLE:
        for _ in range(count):
            wide = expansion * channels
            total += {
                "conv": 9 * channels * out,
                "depthwise": 9 * out,
                "bottleneck": channels * wide + 9 * wide + wide * out,
                "pointwise": channels * out,
                "global": side * side * out,
            }[operator]
            channels = out
    return total + channels * embedding


def network(width: float = 0.25, channels: int = 3, size: tuple[int, int] = (32, 32)) -> torch.nn.Module:
    return MobileFaceNet(width=width, embedding=16).build(channels, size, torch.Generator().manual_seed(1))


def test_published_weights_and_about_a_million_parameters() -> None:
    built = MobileFaceNet().build(3, (112, 112), torch.Generator().manual_seed(1))
    assert sum(p.numel() for p in built.parameters() if p.ndim > 1) == published_weights(128)
    assert 0.98e6 < sum(p.numel() for p in built.parameters()) < 1.02e6  # published: 0.99 M


def test_published_taps() -> None:
    built = MobileFaceNet().build(30, (112, 112), torch.Generator().manual_seed(1))
    with torch.no_grad():
        shapes = [tuple(tap.shape) for tap in built.taps(torch.zeros(1, 30, 112, 112))]
    assert shapes == [(1, 64, 28, 28), (1, 128, 14, 14), (1, 128, 7, 7), (1, 512, 7, 7)]


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (64, 64)])
def test_taps_have_a_quarter_an_eighth_and_a_sixteenth_of_the_side(size: tuple[int, int]) -> None:
    taps = network(size=size).taps(torch.zeros(2, 3, *size))
    assert [tap.shape[2:] for tap in taps] == [tuple(side // k for side in size) for k in (4, 8, 16, 16)]


def test_taps_are_where_the_embedding_comes_from() -> None:
    built = network()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    last = built.taps(images)[-1]
    rest = built.norm_embedding(built.embed(built.norm_whole(built.whole(last)).flatten(1)))
    assert torch.equal(rest, built(images))


@pytest.mark.parametrize("width", [0.1, 0.25, 0.6, 1.5])
def test_every_width_is_made_of_whole_groups(width: float) -> None:
    built = MobileFaceNet(width=width, embedding=8).skeleton(1, (16, 16))
    for module in built.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.out_channels % 8 == 0
    count = sum(p.numel() for p in built.parameters())
    assert math.isclose(count, 1e6 * max(width, 0.12) ** 2, rel_tol=0.8)


@pytest.mark.parametrize("change", [{"width": 0.0}, {"width": float("nan")}, {"embedding": 0}])
def test_bad_settings_are_refused_by_name(change: dict[str, float]) -> None:
    with pytest.raises(checks.UserError, match=next(iter(change))):
        MobileFaceNet(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(32, 20), (8, 16), (0, 16)])
def test_bad_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(checks.UserError, match="size="):
        network(size=size)
