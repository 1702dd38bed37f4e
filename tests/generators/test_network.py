"""The loss is that of its docstring, whichever road one takes to it; nothing mixes rows; public parts stay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from tiny_generator import SMALL, built

from fedveil.generators._network import schedule
from fedveil.generators.base import Losses, constants, learnt, row_losses


def test_the_schedule_is_that_of_ddpm() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(1000, 1e-4, 2e-2, "linear").alphas_cumprod
    torch.testing.assert_close(schedule(1000), theirs, rtol=1e-4, atol=1e-7)


def naive(generator, rows):
    """Return the losses one image at a time, in the words of the docstring."""
    found = []
    for row in rows:
        x, eps, plane = row[:3][None], row[3:6][None], row[6].flatten()
        t, kept = int(plane[0]), plane[1:3][None]
        left = generator.alphas[t]
        noisy = left.sqrt() * x + (1 - left).sqrt() * eps
        with torch.no_grad():
            y, a = generator.embed(x), generator.describe(x)
        predicted = generator.denoiser(noisy, torch.tensor([t]), y, a, kept)
        made = (noisy - (1 - left).sqrt() * predicted) / left.sqrt()
        if t == 0:
            one = SMALL_RECONSTRUCTION / SMALL["share"] * (x - made).square().mean()
        else:
            one = (predicted - eps).square().mean() / (1 - SMALL["share"])
        same = functional.cosine_similarity(y, generator.recogniser(made.clamp(-1, 1)))
        found.append(one - SMALL["kappa"] * left * kept[0, 0] * same[0])
    return torch.stack(found)


SMALL_RECONSTRUCTION = 1.0


def test_losses_agree_with_one_image_at_a_time(generator, pixels) -> None:
    rows = generator.drawn(pixels, torch.Generator().manual_seed(3))
    assert (rows[:, 6, 0, 0] == 0).any()  # some visit the first step
    torch.testing.assert_close(generator.losses(rows), naive(generator, rows), rtol=1e-4, atol=1e-5)


def test_what_is_drawn_is_noise_times_and_coins_of_their_laws(generator, pixels) -> None:
    many = pixels.repeat(200, 1, 1, 1)[:3000]
    rows = generator.drawn(many, torch.Generator().manual_seed(5))
    time, kept = rows[:, 6, 0, 0], rows[:, 6, 0, 1:3]
    assert abs(float((time == 0).float().mean()) - SMALL["share"]) < 0.03
    rest = time[time > 0]
    assert (float(rest.min()), float(rest.max())) == (1.0, SMALL["times"] - 1.0)
    assert abs(float(kept.mean()) - 0.85) < 0.02
    assert abs(float(rows[:, 3:6].std()) - 1) < 0.01
    torch.testing.assert_close(rows[:, :3], many)


def test_both_terms_are_unbiased_over_the_coins(generator, pixels) -> None:
    """The share of first steps is chosen for speed, so it may not change what is minimised on average."""
    def mean(share):
        network = built(kappa=0.0, share=share)
        network.load_state_dict(generator.state_dict())
        coins = torch.Generator().manual_seed(7)
        with torch.no_grad():
            return torch.stack([network.losses(network.drawn(pixels, coins)).mean() for _ in range(60)]).mean()

    assert float(mean(0.2)) == pytest.approx(float(mean(0.5)), rel=0.1)


def test_conditions_that_are_left_out_are_not_read(generator, pixels) -> None:
    time = torch.full((24,), 20)
    without = torch.zeros(24, 2)
    first = generator.noise(pixels, time, generator.embed(pixels), generator.describe(pixels), without)
    second = generator.noise(pixels, time, generator.embed(pixels).flip(0), torch.randn(24, 7), without)
    torch.testing.assert_close(first, second)
    told = generator.noise(pixels, time, generator.embed(pixels), generator.describe(pixels))
    assert not torch.allclose(told, first)


def test_only_the_denoiser_is_trained_and_all_of_it(generator, pixels) -> None:
    loss = generator.losses(generator.drawn(pixels, torch.Generator().manual_seed(3))).sum()
    loss.backward()
    names = [name for name, parameter in generator.named_parameters() if parameter.grad is not None]
    assert sorted(names) == sorted(learnt(name for name, _ in generator.named_parameters()))
    assert {*constants(dict(generator.named_parameters()))} & {*names} == set()


def test_the_inner_product_pulls_towards_the_identity(generator, pixels) -> None:
    """A step down the third term alone makes one-step estimates more alike their identity."""
    rows = generator.drawn(pixels, torch.Generator().manual_seed(11))
    rows[:, 6, 0, 0], rows[:, 6, 0, 1:3] = 5.0, 1.0

    def alike():
        time = rows[:, 6, 0, 0].long()
        left = generator.at(time)
        noisy = left.sqrt() * rows[:, :3] + (1 - left).sqrt() * rows[:, 3:6]
        y, a = generator.embed(rows[:, :3]), generator.describe(rows[:, :3])
        made = generator.clean(noisy, time, generator.noise(noisy, time, y, a))
        return (y * generator.embed(made.clamp(-1, 1))).sum(1).mean()

    parameters = [*generator.denoiser.parameters()]
    without = built(kappa=0.0)
    without.load_state_dict(generator.state_dict())
    with_all = torch.autograd.grad(generator.losses(rows).mean(), parameters)
    rest = torch.autograd.grad(without.losses(rows).mean(), [*without.denoiser.parameters()])
    before = alike()
    with torch.no_grad():
        for parameter, one, other in zip(parameters, with_all, rest, strict=True):
            parameter -= 0.05 * (one - other)
    assert alike() > before


def test_as_a_recogniser_it_is_a_function_of_each_picture_alone(generator, pixels) -> None:
    with torch.no_grad():
        found = generator(pixels)
        torch.testing.assert_close(found[5:9], generator(pixels[5:9]), rtol=1e-4, atol=1e-5)
    assert found.shape == (24, 16)


def test_every_engine_clips_what_the_loop_clips(generator, pixels) -> None:
    from fedveil.private_training import choice
    from fedveil.private_training.base import Batch, Clip

    rows = generator.drawn(pixels[:6].repeat_interleave(2, 0), torch.Generator().manual_seed(3))
    unit = torch.arange(6).repeat_interleave(2)
    batch = Batch(rows, torch.zeros(12, dtype=torch.int64), unit, torch.full((12,), 0.5), 6)
    trained = [*generator.denoiser.parameters()]
    expected = choice.engine("loop")(Losses(generator), row_losses, batch, trained, Clip(0.1))
    assert bool((expected.norms > 0.1).any())
    found = choice.engine("book_keeping")(Losses(generator), row_losses, batch, trained, Clip(0.1))
    torch.testing.assert_close(found.norms, expected.norms, rtol=1e-3, atol=1e-5)
    for one, other in zip(found.tensors, expected.tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_plausible_identities_have_the_mean_and_covariance_of_public_ones(generator, pixels) -> None:
    with torch.no_grad():
        known = generator.embed(pixels)
    torch.testing.assert_close(generator.identity_mean, known.mean(0), atol=1e-5, rtol=0)
    factor = generator.identity_factor
    torch.testing.assert_close(factor @ factor.T, torch.cov(known.T, correction=0), atol=1e-5, rtol=0)
