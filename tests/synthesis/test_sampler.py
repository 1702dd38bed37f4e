"""The sampler against closed forms, against another library's, and against finite differences."""

from __future__ import annotations

import importlib.util
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from fake import Fake, closed_form

from fedveil import checks
from fedveil.device import HOST
from fedveil.synthesis import sampler, variation
from fedveil.synthesis.sampler import Ddim, identity_gradient, sample, times


def given(count: int, dimension: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    coins = variation.coins(3, [(0, i, 0) for i in range(count)], dimension, 2, (8, 8))
    return coins.start, torch.nn.functional.normalize(coins.direction), coins.attributes / 2


@pytest.mark.parametrize("steps", [1, 7, 25, 100])
def test_without_guidance_it_is_ddim_in_closed_form(steps: int) -> None:
    fake = Fake()
    start, identity, attributes = given(5)
    found = sample(fake, Ddim(steps, eta=0, guidance=0), start, identity, attributes)
    expected = closed_form(fake, start, fake.mean(identity, attributes), times(100, steps))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert fake.calls == 5 * steps


class Wild(Fake):
    """A noise predictor whose pictures leave the range, so that cutting off matters."""

    def noise(
        self, x_t: torch.Tensor, t: torch.Tensor, identity: torch.Tensor, attributes: torch.Tensor
    ) -> torch.Tensor:
        return torch.sin(x_t) + 0.2 * x_t.flip(3) - 0.5 * (t / 100).view(-1, 1, 1, 1)


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
@pytest.mark.parametrize(("steps", "eta"), [(10, 0.0), (20, 0.5), (50, 1.0)])
def test_it_equals_the_scheduler_of_diffusers(steps: int, eta: float) -> None:
    from diffusers import DDIMScheduler

    wild = Wild()
    start, identity, attributes = given(3)
    streams = [torch.Generator().manual_seed(i) for i in (1, 1)]
    fresh = [lambda stream=stream: torch.randn(start.shape, generator=stream) for stream in streams]
    mine = sample(wild, Ddim(steps, eta, guidance=0), start, identity, attributes, fresh[0])
    betas = np.linspace(1e-3, 0.12, 100)
    theirs = DDIMScheduler(100, trained_betas=betas, timestep_spacing="trailing", clip_sample=True)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == times(100, steps)
    x, cut = start, 0
    for t in theirs.timesteps:
        noise = wild.noise(x, t.repeat(3), identity, attributes)
        extra = {"variance_noise": fresh[1]()} if eta > 0 else {}
        made = theirs.step(noise, t, x, eta=eta, **extra)
        x, cut = made.prev_sample, cut + int((made.pred_original_sample.abs() == 1).sum())
    assert cut > 100
    torch.testing.assert_close(mine, x, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("cheap", [False, True])
def test_the_identity_s_gradient_is_that_of_finite_differences(cheap: bool) -> None:
    fake = Fake(dimension=3).double()
    x, identity, attributes = (part.double() for part in given(2, 3))
    share, when = float(fake.alphas[40]), torch.full((2,), 40)

    def predicted(pictures: torch.Tensor) -> torch.Tensor:
        return fake.noise(pictures, when, identity, attributes)

    noise, gradient = identity_gradient(fake, predicted, x, share, identity, cheap)
    torch.testing.assert_close(noise, predicted(x))

    def scores(pictures: torch.Tensor) -> torch.Tensor:
        seen = noise if cheap else predicted(pictures)
        estimate = (pictures - math.sqrt(1 - share) * seen) / math.sqrt(share)
        return (identity * fake.embed(estimate.clamp(-1, 1))).sum(1)

    for place in [(0, 0, 0), (1, 3, 5), (2, 7, 7)]:
        moved = torch.zeros_like(x)
        moved[(slice(None), *place)] = 1e-6
        difference = (scores(x + moved) - scores(x - moved)) / 2e-6
        torch.testing.assert_close(gradient[(slice(None), *place)], difference, atol=1e-7, rtol=1e-5)


def test_the_correction_is_the_weighted_gradient_and_never_longer_than_the_noise() -> None:
    fake = Fake()
    x, identity, attributes = given(4)
    share = float(fake.alphas[50])
    plain, none = sampler._noise(fake, Ddim(guidance=0), x, 50, share, identity, attributes, HOST)
    assert none is None
    for guidance in (0.5, 1e4):
        for cheap in (True, False):
            ddim = Ddim(guidance=guidance, cheap=cheap)
            noise, found = sampler._noise(fake, ddim, x, 50, share, identity, attributes, HOST)
            assert found is not None
            torch.testing.assert_close(noise, plain)
            for row in range(4):
                one = slice(row, row + 1)
                leaf = x[one].clone().requires_grad_(True)
                seen = plain[one] if cheap else fake.noise(leaf, torch.tensor([50]), identity[one], attributes[one])
                estimate = (leaf - math.sqrt(1 - share) * seen) / math.sqrt(share)
                score = (identity[one] * fake.embed(estimate.clamp(-1, 1))).sum()
                change = guidance * math.sqrt(1 - share) * torch.autograd.grad(score, leaf)[0]
                change *= min(1.0, float(plain[one].norm() / change.norm()))
                torch.testing.assert_close(found[one], change, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("cheap", [True, False])
def test_guidance_draws_the_person_that_a_blind_generator_does_not_know(cheap: bool) -> None:
    fake = Fake(blind=True)
    start, identity, attributes = given(16)
    cosines = []
    for guidance in (0.0, 0.02, 0.5):
        found = sample(fake, Ddim(10, eta=0, guidance=guidance, cheap=cheap), start, identity, attributes)
        cosines.append(float((identity * fake.embed(found)).sum(1).mean()))
    assert abs(cosines[0]) < 0.25
    assert cosines[0] + 0.05 < cosines[1]
    assert cosines[2] > 0.8


def test_cheap_guidance_leaves_the_noisiest_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    start, identity, attributes = given(1)
    seen: list[int] = []
    embed, noise = fake.embed, fake.noise
    monkeypatch.setattr(fake, "embed", lambda pixels: [seen.append(-1), embed(pixels)][1])
    monkeypatch.setattr(fake, "noise", lambda x, t, *rest: [seen.append(int(t[0])), noise(x, t, *rest)][1])
    sample(fake, Ddim(10, eta=0, cheap=True), start, identity, attributes)
    guided = [before for before, now in itertools.pairwise(seen) if now == -1]
    assert guided == [time for time in times(100, 10) if time < 60]
    seen.clear()
    sample(fake, Ddim(10, eta=0, cheap=False), start, identity, attributes)
    assert seen.count(-1) == 10


@pytest.mark.parametrize("ddim", [Ddim(5, guidance=0), Ddim(5, eta=1.0), Ddim(5, guidance=3.0, cheap=False)])
def test_a_row_does_not_depend_on_the_others(ddim: Ddim) -> None:
    fake = Fake()
    names = [(0, 0, 0), (0, 1, 0), (4, 1, 2)]

    def made(chosen: list[tuple[int, int, int]]) -> torch.Tensor:
        coins = variation.coins(1, chosen, 8, 2, (8, 8))
        identity = torch.nn.functional.normalize(coins.direction)
        return sample(fake, ddim, coins.start, identity, coins.attributes, coins.fresh)

    together = made(names)
    for row, name in enumerate(names):
        torch.testing.assert_close(made([name])[0], together[row], atol=1e-5, rtol=1e-4)


def test_bfloat16_is_for_the_noise_predictor_alone() -> None:
    from fedveil.device import Place

    fake = Fake()
    start, identity, attributes = given(2)
    half = sample(fake, Ddim(5, eta=0), start, identity, attributes, place=Place(precision="bf16"))
    full = sample(fake, Ddim(5, eta=0), start, identity, attributes)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(checks.UserError, match="ddim_steps=101"):
        times(100, 101)
    with pytest.raises(ValueError, match="fresh noise"):
        sample(Fake(), Ddim(eta=0.5), *given(1))
    for wrong in ({"steps": 0}, {"eta": 1.5}, {"guidance": -1.0}, {"guidance": float("inf")}):
        with pytest.raises(checks.UserError, match="Expected"):
            Ddim(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_a_guided_step_follows_the_formula_and_never_turns_round(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """Where nothing is cut, noise' = noise - correction in both of DDIM's terms; a strong one still pulls its way."""
    fake = Fake()
    start, identity, attributes = given(6)
    plain = fake.noise(start, torch.full((6,), 99), identity, attributes)
    correction = size * torch.randn(start.shape, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []

    def noted(_: Any, __: Any, x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(x)
        return plain, correction

    monkeypatch.setattr(sampler, "_noise", noted)
    sample(fake, Ddim(2, eta=0), start, identity, attributes)
    now, after = (float(fake.alphas[t].double()) for t in times(100, 2))

    def step(noise: torch.Tensor) -> torch.Tensor:
        picture = (start - math.sqrt(1 - now) * noise) / math.sqrt(now)
        return math.sqrt(after) * picture + math.sqrt(1 - after) * noise

    moved = ((seen[1] - step(plain)) * correction).flatten(1).sum(1)
    assert (moved > 0).all()
    if size < 1:
        torch.testing.assert_close(seen[1], step(plain - correction), atol=1e-5, rtol=1e-4)
    else:
        assert ((seen[1] - step(plain)).abs() <= 2).all()  # what is beyond the range of pictures is cut
