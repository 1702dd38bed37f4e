"""The guarantee of DCTDP, checked on what `release` really does; and the checks catch three classic mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from scipy import stats

from fedveil import frequency
from fedveil.checks import UserError
from fedveil.privacy import clipping, gaussian, noise
from fedveil.protections.dctdp import DCTDP
from fedveil.randomness import SecretStream, test_key

SIZE = (16, 16)
State = dict[str, torch.Tensor]
VARIANTS = {
    "laplace": {"total_epsilon": 8.0},
    "gaussian": {"total_epsilon": 8.0, "noise": "gaussian"},
    "spatial": {"total_epsilon": 300.0, "spatial": True, "radius_quantile": 0.1},
    "published": {"mode": "coefficient", "mean_epsilon": 0.5},
    "half-pixel": {"mode": "coefficient", "mean_epsilon": 4.0, "align_corners": False},
}


def fitted(variant: str) -> tuple[DCTDP, State]:
    generator = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.interpolate(torch.rand(24, 3, 4, 4, generator=generator), SIZE, mode="bilinear")
    public = (smooth * 255).to(torch.uint8).numpy()
    protection = DCTDP(fit_steps=0, **VARIANTS[variant])  # type: ignore[arg-type]
    return protection, protection.fit(public, torch.arange(24).numpy(), 1)


def streams(count: int, purpose: str = "noise") -> list[SecretStream]:
    return [SecretStream(test_key(5, purpose, index)) for index in range(count)]


def hostile_images(state: State) -> torch.Tensor:
    """Images that are furthest apart: the loudest channel's pattern, checkerboards, noise, their negatives, black."""
    yy, xx = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    boards = torch.stack([(yy + xx) % 2, yy // 4 % 2, xx // 8, (xx + yy) // 4 % 2]) * 255
    boards = boards[:, None].expand(-1, 3, -1, -1)
    random = torch.randint(0, 256, (4, 3, *SIZE), generator=torch.Generator().manual_seed(4))
    loudest = boards[:1]
    if state["weights"].shape[0] == 189:
        spectrum = torch.zeros(1, 189, 2, 2)
        spectrum[:, int(state["weights"].mean((1, 2)).argmax())] = 1.0
        loudest = (frequency.block_idct(spectrum, frequency.AC) > 128) * 255
    half = torch.cat([loudest, boards, random])
    return torch.cat([half, 255 - half, torch.zeros(1, 3, *SIZE)]).to(torch.uint8)


def locations_and_scales(protection: DCTDP, state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """What the noise is centred on and its scales, observed at the sampler while the release runs."""
    seen: list[torch.Tensor] = []

    def silent(stream: SecretStream, scale: torch.Tensor) -> torch.Tensor:
        seen.append(scale.double().clone())
        return torch.zeros_like(scale, dtype=torch.float64)

    images = hostile_images(state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "laplace", silent)
        patch.setattr(noise, "gaussian", silent)
        centres = protection.release(images, state, streams(len(images))).double()
    assert all(torch.equal(scale, seen[0]) for scale in seen), "scales must not depend on the image"
    return centres, seen[0]


def check_loss(protection: DCTDP, state: State) -> float:
    """Two images must not be further apart, in units of the noise, than the event states; return the ratio."""
    centres, scales = locations_and_scales(protection, state)
    unit = (centres / scales).flatten(1)
    worst = float(torch.cdist(unit, unit, p=1.0 if protection.noise == "laplace" else 2.0).max())
    claimed = protection.event(SIZE, state).diameter
    assert worst <= claimed * (1 + 1e-9), f"two images are {worst} apart, the event claims {claimed}"
    return worst / claimed


def check_law(protection: DCTDP, state: State) -> None:
    """Release minus centre must have the law and the scale that the guarantee assumes, in every coefficient."""
    image = hostile_images(state)[5:6]
    drawn = 200 if protection.mode == "image" else 4
    centre = protection.clean(image, state)
    released = protection.release(image.expand(drawn, -1, -1, -1), state, streams(drawn))
    width = 2 * float(state["radius"]) / state["weights"].double() if protection.mode == "image" else None
    if width is None:
        mechanism = protection._mechanism
        scales = mechanism.scales(state, SIZE)
    elif protection.noise == "laplace":
        scales = width / protection.total_epsilon
    else:
        scales = width / gaussian.mu_of(protection.total_epsilon, protection.delta)
    unit = ((released - centre).double() / scales).flatten()
    law = stats.laplace if protection.noise == "laplace" else stats.norm
    assert stats.kstest(unit.numpy(), law.cdf).pvalue > 1e-5, "the noise is not of the stated law and scale"


def check_independence(release: Callable[[torch.Tensor, Sequence[SecretStream]], torch.Tensor]) -> None:
    """Two equal images in one batch must get two independent draws."""
    image = torch.full((1, 3, *SIZE), 77, dtype=torch.uint8)
    one, two = release(image.expand(2, -1, -1, -1), streams(2)).double().flatten(1)
    assert not torch.equal(one, two), "the batch shares one draw"
    alone = [release(image, streams(2)[index : index + 1]).double().flatten() for index in (0, 1)]
    assert torch.equal(one, alone[0]), "a draw depends on the batch"
    assert torch.equal(two, alone[1]), "a draw depends on the batch"


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_two_images_are_further_apart_than_the_event_states(variant: str) -> None:
    ratio = check_loss(*fitted(variant))
    if VARIANTS[variant].get("mode") != "coefficient":
        assert ratio > 0.99999, "an image and its negative reach the bound: it is tight"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_noise_has_the_stated_scale(variant: str) -> None:
    check_law(*fitted(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_image_has_its_own_draw(variant: str) -> None:
    protection, state = fitted(variant)
    check_independence(lambda images, keys: protection.release(images, state, keys))


def test_sampled_log_likelihood_ratios_stay_below_epsilon() -> None:
    protection, state = fitted("laplace")
    centres, scales = locations_and_scales(protection, state)
    one, other = centres[0], centres[9]
    released = protection.release(hostile_images(state)[:1].expand(50, -1, -1, -1), state, streams(50)).double()
    ratio = (((released - other).abs() - (released - one).abs()) / scales).flatten(1).sum(1)
    assert float(ratio.max()) <= protection.total_epsilon * (1 + 1e-6)
    assert float(ratio.mean()) > 0


def test_gaussian_event_is_stated_at_its_own_epsilon() -> None:
    protection, state = fitted("gaussian")
    event = protection.event(SIZE, state)
    assert event.delta == protection.delta
    assert gaussian.epsilon_of(event.diameter, event.delta) == pytest.approx(protection.total_epsilon, rel=1e-9)


def test_the_published_mode_states_the_composed_epsilon() -> None:
    protection, state = fitted("published")
    event = protection.event(SIZE, state)
    assert event.diameter == pytest.approx(0.5 * 189 * 16 * 16, rel=1e-6)
    assert dict(event.detail)["mean_epsilon"] == 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_event_differs_from_the_planned_one_in_its_detail_alone(variant: str) -> None:
    """An owner decides by the planned one: whatever is learnt, the law, the diameter and the counts are the same."""
    protection, state = fitted(variant)
    planned, event = protection.planned(SIZE, 4, 9), protection.event(SIZE, state, 4, 9)
    assert dataclasses.replace(planned, detail=event.detail) == event


def test_weights_of_another_mean_are_refused() -> None:
    """The composed epsilon is stated for mean 1: larger weights would be less noise under the same statement."""
    protection, state = fitted("published")
    with pytest.raises(UserError, match="mean 1"):
        protection.event(SIZE, {**state, "weights": 1.001 * state["weights"]})


@pytest.mark.parametrize("variant", ["laplace", "gaussian", "published"])
def test_halved_noise_would_be_caught(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    protection, state = fitted(variant)
    name = protection.noise
    full = getattr(noise, name)
    monkeypatch.setattr(noise, name, lambda stream, scale: full(stream, scale) / 2)
    with pytest.raises(AssertionError, match="law and scale"):
        check_law(protection, state)


@pytest.mark.parametrize("variant", ["laplace", "gaussian", "spatial"])
def test_dropped_clipping_would_be_caught(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    protection, state = fitted(variant)
    monkeypatch.setattr(clipping, "clip_norm", lambda z, weights, radius, order: z.double())
    with pytest.raises(AssertionError, match="apart"):
        check_loss(protection, state)


def test_halved_scales_would_be_caught() -> None:
    protection, state = fitted("laplace")
    bolder = DCTDP(total_epsilon=16.0, fit_steps=0)
    ratio = check_loss(bolder, state)
    assert ratio * bolder.event(SIZE, state).diameter > protection.event(SIZE, state).diameter * 1.9


def test_noise_shared_by_a_batch_would_be_caught() -> None:
    protection, state = fitted("laplace")

    def shared(images: torch.Tensor, keys: Sequence[SecretStream]) -> torch.Tensor:
        one = protection.release(torch.zeros_like(images[:1]), state, keys[:1])
        return protection.clean(images, state) + one

    with pytest.raises(AssertionError, match="shares one draw"):
        check_independence(shared)
