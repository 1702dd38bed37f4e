"""DCTDP with `privacy.noise=grid`: the guarantee holds for the numbers that are there, without a tolerance."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fedveil.privacy import grid, noise
from fedveil.privacy.events import ON_GRID
from fedveil.privacy.settling import Law
from fedveil.protections.dctdp import DCTDP
from fedveil.randomness import SecretStream, test_key

SIZE = (16, 16)
State = dict[str, torch.Tensor]
VARIANTS = {
    "laplace": {"total_epsilon": 8.0},
    "gaussian": {"total_epsilon": 8.0, "noise": "gaussian"},
    "spatial": {"total_epsilon": 300.0, "spatial": True, "radius_quantile": 0.1},
    "published": {"mode": "coefficient", "mean_epsilon": 0.5},
}
Seen = list[tuple[torch.Tensor, torch.Tensor]]


def fitted(variant: str) -> tuple[DCTDP, State]:
    generator = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.interpolate(torch.rand(24, 3, 4, 4, generator=generator), SIZE, mode="bilinear")
    protection = DCTDP(fit_steps=0, **VARIANTS[variant])  # type: ignore[arg-type]
    state = protection.fit((smooth * 255).to(torch.uint8).numpy(), torch.arange(24).numpy(), 1)
    return protection.with_noise("grid"), state


def streams(count: int) -> list[SecretStream]:
    return [SecretStream(test_key(5, "grid", index)) for index in range(count)]


def hostile() -> torch.Tensor:
    yy, xx = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    boards = torch.stack([(yy + xx) % 2, yy // 4 % 2, xx // 8, (xx + yy) // 4 % 2]) * 255
    random = torch.randint(0, 256, (4, 3, *SIZE), generator=torch.Generator().manual_seed(4))
    half = torch.cat([boards[:, None].expand(-1, 3, -1, -1), random])
    return torch.cat([half, 255 - half]).to(torch.uint8)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What noise is added to on a grid, and the scale that is drawn."""
    found: Seen = []
    whole = grid.Grid.added

    def listening(self: grid.Grid, law: Law, stream: SecretStream, values: torch.Tensor) -> torch.Tensor:
        found.append((values.clone(), self.steps * self.step))
        return whole(self, law, stream, values)

    monkeypatch.setattr(grid.Grid, "added", listening)
    return found


def check_loss(protection: DCTDP, state: State, seen: Seen) -> None:
    """No two images are further apart than the event says, in units of the drawn scales: no rounding is excused."""
    images = hostile()
    protection.release(images, state, streams(len(images)))
    assert len(seen) == len(images), "noise is real under a label that says grid"
    unit = torch.stack([(centre / scale).flatten() for centre, scale in seen])
    worst = float(torch.cdist(unit, unit, p=1.0 if protection.noise == "laplace" else 2.0).max())
    claimed = protection.event(SIZE, state).diameter
    assert worst <= claimed
    if protection.mode == "image":
        assert worst > 0.3 * claimed, "these images are too near to test anything"


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_two_images_are_further_apart_than_the_event_states(variant: str, seen: Seen) -> None:
    protection, state = fitted(variant)
    check_loss(protection, state, seen)


def test_weights_that_float32_rounded_above_their_mean_cost_no_more_than_stated(seen: Seen) -> None:
    """Mode coefficient states the sum of the budgets, and its check lets the mean of the weights be off by 1e-5."""
    protection, state = fitted("published")
    state = {**state, "weights": state["weights"] * (1 + 9e-6)}
    protection.release(hostile()[:1], state, streams(1))
    widths = protection._mechanism.widths(SIZE)  # type: ignore[union-attr]
    assert float((widths / seen[0][1]).sum()) <= protection.event(SIZE, state).diameter
    assert float((widths / protection._mechanism.scales(state, SIZE)).sum()) > protection.event(SIZE, state).diameter


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_noise_has_its_law_and_every_image_its_own(variant: str) -> None:
    protection, state = fitted(variant)
    image = hostile()[5:6]
    drawn = 200 if protection.mode == "image" else 4
    released = protection.release(image.expand(drawn, -1, -1, -1), state, streams(drawn))
    scales = protection._mechanism.scales(state, SIZE)
    unit = ((released - protection.clean(image, state)).double() / scales).flatten()
    law = "laplace" if protection.noise == "laplace" else "norm"
    assert stats.kstest(unit.numpy(), law).pvalue > 1e-6
    assert not torch.equal(released[0], released[1])
    assert torch.equal(protection.release(image, state, streams(1))[0], released[0])
    assert not torch.equal(protection.with_noise("real").release(image, state, streams(1))[0], released[0])


def test_the_kind_is_in_the_event_and_is_no_setting() -> None:
    protection, state = fitted("laplace")
    real = protection.with_noise("real")
    assert (type(real), real.noise_kind, protection.noise_kind) == (DCTDP, "real", "grid")
    assert protection != real
    assert real.with_noise("grid") == protection
    event, plain = protection.event(SIZE, state), real.event(SIZE, state)
    assert ON_GRID in event.detail
    assert {*event.detail} - {*plain.detail} == {ON_GRID}
    assert (event.mechanism, event.diameter) == (plain.mechanism, plain.diameter)


def test_real_noise_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that older runs keep are drawn again bit by bit when they are lost."""
    protection, state = fitted("laplace")
    image, scales = hostile()[:1], protection._mechanism.scales(state, SIZE)
    centre = protection._mechanism.clipped(image, state)[0]
    expected = (centre + noise.laplace(streams(1)[0], scales)).float()
    assert torch.equal(protection.with_noise("real").release(image, state, streams(1))[0], expected)
