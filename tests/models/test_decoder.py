"""The decoder: its shapes, its range, its start from a generator, and that images do not mix."""

from __future__ import annotations

import pytest
import torch

from fedveil.checks import UserError
from fedveil.models.decoder import Decoder
from fedveil.randomness import public_torch


@pytest.mark.parametrize(
    ("channels", "small", "large"),
    [(16, (8, 8), (16, 16)), (3, (5, 6), (20, 24)), (1, (4, 4), (4, 4)), (8, (14, 14), (112, 112))],
)
def test_it_doubles_a_map_up_to_the_image(channels: int, small: tuple[int, int], large: tuple[int, int]) -> None:
    network = Decoder(width=16, blocks=2).build(channels, small, large, public_torch(1, "decoder"))
    drawn = network(10.0 * torch.randn(2, channels, *small, generator=public_torch(1, "map")))
    assert drawn.shape == (2, 3, *large)
    assert float(drawn.detach().abs().max()) <= 1
    assert not list(network.buffers())


def test_it_starts_from_its_generator_and_away_from_saturation() -> None:
    def tensors(seed: int) -> dict[str, torch.Tensor]:
        return dict(Decoder().build(4, (8, 8), (16, 16), public_torch(seed, "decoder")).named_parameters())

    first, again, other = tensors(1), tensors(1), tensors(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["last.weight"], other["last.weight"])
    network = Decoder().build(4, (8, 8), (16, 16), public_torch(1, "decoder"))
    drawn = network(torch.randn(4, 4, 8, 8, generator=public_torch(1, "map"))).detach()
    assert float(drawn.abs().mean()) < 0.5


def test_images_do_not_mix_and_the_scale_of_the_map_does_not_matter() -> None:
    network = Decoder(width=8).build(4, (8, 8), (16, 16), public_torch(1, "decoder"))
    maps = torch.randn(3, 4, 8, 8, generator=public_torch(1, "map"))
    together = network(maps)
    torch.testing.assert_close(together[1:2], network(maps[1:2]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, network(100 * maps), rtol=1e-3, atol=1e-3)


def test_the_skeleton_has_the_same_tensors_and_no_memory() -> None:
    decoder = Decoder(width=8, blocks=3)
    built = decoder.build(4, (8, 8), (32, 32), public_torch(1, "decoder"))
    skeleton = decoder.skeleton(4, doublings=2)
    assert {n: p.shape for n, p in skeleton.named_parameters()} == {n: p.shape for n, p in built.named_parameters()}
    assert all(value.is_meta for value in skeleton.parameters())


@pytest.mark.parametrize("large", [(24, 24), (8, 16), (4, 4), (9, 9)])
def test_a_map_that_does_not_double_to_the_image_is_refused(large: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="image_size"):
        Decoder().build(4, (8, 8), large, public_torch(1, "decoder"))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UserError, match="width"):
        Decoder(width=12)
    with pytest.raises(UserError, match="blocks"):
        Decoder(blocks=0)
