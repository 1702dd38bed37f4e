"""The U-Net: published size, every multiple of 16, first values from the generator, copying at the start."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from fedveil.checks import UserError
from fedveil.models import unet


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(channels_in: int, channels_out: int, width: int) -> int:
    """Count weights and biases level by level from the published description."""

    def conv(a: int, b: int, side: int = 3) -> int:
        return a * b * side * side + b

    widths = [width * factor for factor in (1, 2, 4, 8, 16)]
    total, before = 0, channels_in
    for wide in widths:
        total += conv(before, wide) + conv(wide, wide)
        before = wide
    for wide in reversed(widths[:-1]):
        total += conv(2 * wide, wide)  # transposed
        total += conv(2 * wide, wide) + conv(wide, wide)  # after concatenation
    return total + conv(width, channels_out, 1)


@pytest.mark.parametrize(("width", "millions"), [(64, 34.6), (32, 8.7), (16, 2.2), (8, 0.56)])
def test_the_published_network_has_the_published_size(width: int, millions: float) -> None:
    count = sum(parameter.numel() for parameter in unet.skeleton(192, 192, width).parameters())
    assert count == by_hand(192, 192, width)
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (112, 112)])
def test_the_output_has_the_size_of_the_input(size: tuple[int, int]) -> None:
    network = unet.build(5, 3, 2, generator())
    assert network(torch.zeros(2, 5, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("size", [(8, 16), (16, 24), (40, 40)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="multiple of 16"):
        unet.build(3, 3, 2, generator())(torch.zeros(1, 3, *size))


def test_it_is_the_published_graph() -> None:
    network = unet.build(3, 4, 2, generator()).double()
    weights = {name: tensor.detach() for name, tensor in network.named_parameters()}
    x = torch.randn(2, 3, 32, 16, generator=generator(2), dtype=torch.float64)

    def double(name: str, y: torch.Tensor) -> torch.Tensor:
        for layer in (0, 2):
            y = functional.conv2d(y, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"], padding=1)
            y = y.clamp(min=0)
        return y

    levels, y = [], x
    for k in range(5):
        if k:
            batch, channels, height, width = y.shape
            y = y.reshape(batch, channels, height // 2, 2, width // 2, 2).amax((3, 5))
        y = double(f"down.{k}", y)
        levels.append(y)
    for k in range(4):
        # A transposed convolution of stride 2 is an ordinary one, flipped, on the input with zeros in between.
        spread = y.new_zeros(*y.shape[:2], 2 * y.shape[2], 2 * y.shape[3])
        spread[:, :, ::2, ::2] = y
        kernel = weights[f"grow.{k}.weight"].transpose(0, 1).flip(2, 3)
        y = functional.conv2d(spread, kernel, weights[f"grow.{k}.bias"], padding=1)
        y = double(f"up.{k}", torch.cat([levels[3 - k], y], 1))
    y = functional.conv2d(y, weights["last.weight"], weights["last.bias"])
    torch.testing.assert_close(network(x), y)


def test_the_first_values_come_from_the_generator_alone() -> None:
    torch.manual_seed(7)
    one = dict(unet.build(6, 6, 4, generator()).named_parameters())
    torch.manual_seed(8)
    same = dict(unet.build(6, 6, 4, generator()).named_parameters())
    other = dict(unet.build(6, 6, 4, generator(2)).named_parameters())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(torch.equal(one[name], other[name]) == name.endswith("bias") for name in one)
    assert not list(unet.build(6, 6, 4, generator()).buffers())
    x = torch.randn(4, 192, 32, 32, generator=generator(3))
    scale = float(unet.build(192, 192, 16, generator())(x).detach().std())
    assert 0.3 < scale < 3, "no level loses or blows up the signal"


def test_no_image_influences_another() -> None:
    network = unet.build(3, 3, 4, generator())
    x = torch.randn(3, 3, 16, 16, generator=generator(2))
    before = network(x)[:1].detach()
    x[1:] = 100.0
    torch.testing.assert_close(network(x)[:1].detach(), before)


def test_chosen_channels_are_copied_at_the_start_and_can_change() -> None:
    network = unet.build(7, 7, 8, generator(), copied=(1, 6))
    x = 10 * torch.randn(2, 7, 16, 32, generator=generator(2))
    y = network(x)
    others = [0, 2, 3, 4, 5]
    assert torch.equal(y[:, [1, 6]], x[:, [1, 6]])
    assert not y[:, others].any()
    y.square().sum().backward()
    assert bool(network.last.weight.grad[:, :4].any())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01
    network.zero_grad()
    network(x).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in network.parameters()), "no part stays dead"
    with pytest.raises(UserError, match="width"):
        unet.build(7, 7, 3, generator(), copied=(1, 6))
