"""DCTDP's learning, features and settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedveil import frequency
from fedveil.checks import UserError
from fedveil.data.sources.procedural import draw_faces
from fedveil.protections.dctdp import DCTDP
from fedveil.randomness import SecretStream, test_key

FACES = draw_faces(3, 0, identities=12, images_per_identity=6, size=32)
IMAGES = FACES.images(np.arange(len(FACES)))
LABELS = np.asarray(FACES.labels)
TENSORS = torch.from_numpy(IMAGES)


def streams(count: int) -> list[SecretStream]:
    return [SecretStream(test_key(9, index)) for index in range(count)]


def fit(**settings: object) -> tuple[DCTDP, dict[str, torch.Tensor]]:
    protection = DCTDP(**{"fit_steps": 3, **settings})  # type: ignore[arg-type]
    return protection, protection.fit(IMAGES, LABELS, seed=1)


def test_fit_is_deterministic_reports_progress_and_caps() -> None:
    told: list[tuple[int, int]] = []
    protection = DCTDP(fit_steps=4, cap=3.0)
    one = protection.fit(IMAGES, LABELS, 1, lambda done, of: told.append((done, of)))
    two = protection.fit(IMAGES, LABELS, 1)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert float(one["weights"].max()) <= 3.0 + 1e-5
    assert float(one["weights"].mean()) == pytest.approx(1.0, abs=1e-5)
    other = protection.fit(IMAGES, LABELS, 2)
    assert not torch.equal(one["weights"], other["weights"])


def test_labels_of_any_numbering_learn_the_same() -> None:
    protection = DCTDP(fit_steps=2)
    one, two = protection.fit(IMAGES, LABELS, 1), protection.fit(IMAGES, LABELS * 1000 + 5, 1)
    assert torch.equal(one["weights"], two["weights"])


def test_the_radius_is_the_public_quantile_of_the_weighted_norm() -> None:
    _, state = fit(radius_quantile=0.75, noise="gaussian")
    weighted = (frequency.block_dct(TENSORS.double(), frequency.AC) * state["weights"]).numpy()
    norms = np.sqrt((weighted.reshape(len(IMAGES), -1) ** 2).sum(1))
    assert float(state["radius"]) == pytest.approx(np.quantile(norms, 0.75), rel=1e-5)


def test_energy_start_has_less_error_than_uniform() -> None:
    errors = {}
    for init in ("zeros", "energy"):
        protection, state = fit(init=init, fit_steps=0, total_epsilon=500.0)
        released = protection.release(TENSORS, state, streams(len(TENSORS)))
        spectrum = frequency.block_dct(TENSORS, frequency.AC) - state["mean"][[k for k in range(192) if k % 64]]
        errors[init] = float((protection._mechanism.shrunk(released, state) - spectrum).square().mean())  # type: ignore[union-attr]
    assert errors["energy"] < 0.8 * errors["zeros"]


def test_learning_moves_the_shape_from_zeros() -> None:
    _, start = fit(init="zeros", fit_steps=0)
    _, learnt = fit(init="zeros", fit_steps=5)
    assert torch.allclose(start["weights"], torch.ones(189, 1, 1))
    assert float((learnt["weights"] - 1).abs().max()) > 0.1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"total_epsilon": 8.0},
        {"noise": "gaussian"},
        {"spatial": True},
        {"input_layout": "upsampled"},
        {"mode": "coefficient"},
        {"mode": "coefficient", "mean_epsilon": 100.0, "spatial": True},
        {"mode": "coefficient", "align_corners": False, "init": "zeros"},
    ],
    ids=str,
)
def test_features_have_about_unit_scale_at_every_budget(settings: dict[str, object]) -> None:
    protection, state = fit(fit_steps=1, **settings)
    released = protection.release(TENSORS, state, streams(len(TENSORS)))
    features = protection.features(released, state)
    assert features.shape == (len(TENSORS), *protection.layout((32, 32)))
    assert 0.5 < float(features.square().mean().sqrt()) < 2.0


def test_with_much_budget_the_picture_and_the_features_are_the_image() -> None:
    protection, state = fit(total_epsilon=1e9, radius_quantile=1.0, init="zeros", fit_steps=0)
    released = protection.release(TENSORS[:8], state, streams(8))
    picture = protection.render(released, state, (32, 32))
    # Without DC, blocks lose their own mean; compare within blocks.
    wanted, got = TENSORS[:8].double(), picture.double()
    clipped = (got == 0) | (got == 255)
    blocks = (8, 3, 4, 8, 4, 8)
    error = (
        wanted
        - got
        - (wanted - got)
        .view(blocks)
        .median(5)
        .values.median(3)
        .values.view(8, 3, 4, 1, 4, 1)
        .expand(blocks)
        .reshape(wanted.shape)
    )
    assert float(error[~clipped].abs().median()) <= 1.0
    features = protection.features(released, state)
    mean = state["mean"].clone()
    spectrum = frequency.block_dct(TENSORS[:8]) - mean
    spectrum[:, [0, 64, 128]] = 0
    deviation = frequency.block_idct(spectrum) - 128
    correlation = torch.corrcoef(torch.stack([deviation.flatten(), features.flatten()]))[0, 1]
    assert float(correlation) > 0.999


def test_published_mode_with_much_budget_inverts() -> None:
    protection, state = fit(mode="coefficient", mean_epsilon=1e7, init="zeros", fit_steps=0)
    released = protection.release(TENSORS[:2], state, streams(2))
    picture = protection.render(released, state, (32, 32)).double()
    error = TENSORS[:2].double() - picture
    inside = (picture > 0) & (picture < 255)
    assert float((error - error.mean((2, 3), keepdim=True))[inside].abs().median()) < 25


def test_state_of_another_size_or_setting_is_refused() -> None:
    protection, state = fit(fit_steps=0)
    with pytest.raises(UserError, match="fit this protection again"):
        protection.release(torch.zeros(1, 3, 40, 32, dtype=torch.uint8), state, streams(1))
    with pytest.raises(UserError, match="fit it again"):
        DCTDP(mode="coefficient").event((32, 32), state)
    with pytest.raises(UserError, match="fit this protection again"):
        DCTDP(spatial=True).event((32, 32), state)
    for name, value in (("weights", 0.0), ("weights", float("nan")), ("radius", -1.0), ("radius", float("inf"))):
        broken = {**state, name: torch.full_like(state[name], value)}
        with pytest.raises(UserError, match=r"weight|radius"):
            protection.release(TENSORS[:1], broken, streams(1))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"mode": "pixel"}, "mode='pixel'"),
        ({"noise": "cauchy"}, "noise='cauchy'"),
        ({"noise": "gaussian", "mode": "coefficient"}, "noise='gaussian'"),
        ({"total_epsilon": 0.0}, "total_epsilon=0.0"),
        ({"total_epsilon": float("inf")}, "total_epsilon=inf"),
        ({"mean_epsilon": -1.0}, "mean_epsilon=-1.0"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"radius_quantile": 1.5}, "radius_quantile=1.5"),
        ({"cap": 0.5}, "cap=0.5"),
        ({"input_layout": "wave"}, "input_layout='wave'"),
        ({"init": "ones"}, "init='ones'"),
        ({"fit_steps": -1}, "fit_steps=-1"),
        ({"fit_lr": 0.0}, "fit_lr=0.0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(settings: dict[str, object], name: str) -> None:
    with pytest.raises(UserError) as caught:
        DCTDP(**settings)  # type: ignore[arg-type]
    assert name in str(caught.value)


def test_public_faces_that_cannot_teach_are_refused() -> None:
    with pytest.raises(UserError, match="at least 2 people"):
        DCTDP().fit(IMAGES[:6], LABELS[:6], 1)
    with pytest.raises(UserError, match="labels"):
        DCTDP().fit(IMAGES, LABELS[:-1], 1)
    with pytest.raises(UserError, match="multiple of 8"):
        DCTDP().fit(IMAGES[:, :, :30], LABELS, 1)


def test_constant_public_faces_still_give_a_usable_state() -> None:
    grey = np.full((4, 3, 16, 16), 128, dtype=np.uint8)
    protection = DCTDP(fit_steps=0)
    state = protection.fit(grey, np.arange(4), 1)
    released = protection.release(TENSORS[:1, :, :16, :16], state, streams(1))
    assert torch.isfinite(protection.features(released, state)).all()


def test_the_picture_of_the_shape() -> None:
    protection, state = fit(fit_steps=0)
    picture = protection.shape_picture(state)
    assert picture.shape == (3, 8, 8)
    assert np.isnan(picture[:, 0, 0]).all()
    assert np.nanmean(picture) == pytest.approx(1.0, abs=1e-5)
    half = DCTDP(mode="coefficient", align_corners=False, fit_steps=0)
    picture = half.shape_picture(half.fit(IMAGES[:8], LABELS[:8], 1))
    assert np.isnan(picture[:, 4]).all()
