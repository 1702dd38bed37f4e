"""A decoder recovers faces where nothing is hidden and draws the mean face from noise; every visit draws anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from easy import ends, guessed, known, pictures_trained_on

from fedveil import checks
from fedveil.attacks import _releases, decoder
from fedveil.attacks._inverter import Inverter
from fedveil.attacks._releases import Releases, Stream
from fedveil.attacks._target import Target
from fedveil.attacks.decoder import Decoder
from fedveil.frequency import block_dct

SMALL = Decoder(victims=40, images=160, steps=24, batch_size=32)


NAMES = ("ssim", "psnr", "linked", "rank1", "identity_cosine")


def test_it_recovers_faces_where_nothing_is_hidden(
    target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = SMALL.run(known(target_of(), monkeypatch))
    for name in NAMES:
        assert ends(finding, name)[0] > guessed(finding, name), name
    assert finding.level == "adaptive"
    assert finding.panel is not None
    assert [*finding.panel] == ["original", "what leaves", "recovered"]


def test_it_draws_the_mean_face_from_noise(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    finding = SMALL.run(known(target_of(noise=True), monkeypatch))
    for name in NAMES:
        assert ends(finding, name)[0] <= guessed(finding, name), name


def test_every_visit_draws_under_its_own_keys(
    target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the attacker's pictures at each step, of the held-out ones, and of the victims."""
    target = target_of(noise=True)
    seen: list[bytes] = []
    real = _keys(monkeypatch, seen)
    images = np.zeros((12, 3, 32, 32), np.uint8)
    drawn = Releases(target, 1, "decoder")
    stream = Stream(drawn, images, torch.zeros(12))
    batches = [batch for batch, _ in stream.batches(5, 6)]
    assert real.called == len(seen) == len(set(seen)) == 30
    flat = torch.cat(batches).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 30
    drawn.of(images, "held out")
    target.release(images, 1, "victims")
    assert len(seen) == len(set(seen)) == 54


class _keys:
    """Counts and keeps the keys that releases are drawn under."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seen: list[bytes]) -> None:
        from fedveil import randomness

        real, self.called = randomness.test_key, 0

        def key(*labels: Any) -> bytes:
            self.called += 1
            seen.append(real(*labels))
            return seen[-1]

        monkeypatch.setattr(randomness, "test_key", key)


def test_kept_draws_are_a_share_of_the_visits(target_of: Callable[..., Target]) -> None:
    target = target_of(noise=True)
    images = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 32, 32), np.uint8)
    drawn = Releases(target, 1, "decoder", redrawn=0.25)
    inputs = [batch for batch, _ in Stream(drawn, images, torch.arange(8)).batches(8, 5)]  # each pass has everybody
    fresh = [len(torch.unique(torch.cat(inputs[: k + 1]).flatten(1), dim=0)) for k in range(5)]
    assert fresh == [8, 10, 12, 14, 16]


def test_the_inputs_are_those_of_the_answers(target_of: Callable[..., Target]) -> None:
    """Kept inputs too, of a protection without randomness."""
    target = target_of()
    images = np.random.default_rng(1).integers(0, 255, (9, 3, 32, 32), dtype=np.uint8)
    for inputs, answers in Stream(Releases(target, 1, "decoder"), images, torch.from_numpy(images)).batches(4, 7):
        again = target.features(target.protection.release(answers, target.state, [None] * 4))  # it draws nothing
        assert torch.allclose(inputs, again, atol=1e-3)  # kept in half precision


def test_nobody_of_the_attacker_is_trained_on_and_chooses() -> None:
    labels = np.repeat(np.arange(30), 4)
    train, held = _releases.parted(labels, 1)
    assert not set(labels[train]) & set(labels[held])
    assert sorted([*train, *held]) == [*range(120)]
    assert len(set(labels[held])) == 3
    some = _releases.whole_people(labels, 50, 1)
    assert len(some) == 48
    assert len(set(labels[some])) == 12


def test_no_victim_is_trained_on(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    trained, victims = pictures_trained_on(SMALL, known(target_of(), monkeypatch), monkeypatch)
    assert trained
    assert not victims & trained


def test_a_static_attacker_sees_no_release_before_he_attacks(
    target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, released = known(target_of(noise=True), monkeypatch), []
    real = Target.release
    monkeypatch.setattr(
        Target, "release", lambda self, images, *labels: released.append(labels[1]) or real(self, images, *labels)
    )
    attack = dataclasses.replace(SMALL, attacker="static", steps=2)
    assert attack.run(target).level == "static"
    assert "decoder" not in released
    assert "victims" in released


def test_more_pictures_are_a_curve(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    attack = dataclasses.replace(SMALL, steps=2, sizes=(160, 80))
    curve = attack.run(known(target_of(), monkeypatch)).curves["linked_by_size"]
    assert curve["x"] == [80, 160]
    assert len(curve["y"]) == 2


@pytest.mark.parametrize(
    ("shape", "size"), [((189, 4, 4), (32, 32)), ((16, 20, 20), (40, 40)), ((5, 48, 48), (48, 40))]
)
def test_it_takes_any_representation(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    sample, mean = torch.randn(3, *shape), torch.rand(3, *size)
    network = Inverter(sample, mean, 8, torch.Generator().manual_seed(1))
    assert torch.allclose(network(sample), mean.expand(3, 3, *size))  # it begins at the mean face


def test_the_lift_holds_the_inverse_of_block_coefficients() -> None:
    """Fitted by least squares against the pictures, a 1x1 map and dealt-out channels are exact."""
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    given = block_dct(images).permute(0, 2, 3, 1).reshape(-1, 192).double()
    blocks = torch.nn.functional.pixel_unshuffle(images.double(), 8).permute(0, 2, 3, 1).reshape(-1, 192)
    given = torch.cat([given, torch.ones(len(given), 1)], 1)
    assert (given @ torch.linalg.lstsq(given, blocks).solution - blocks).abs().max() < 1e-2


def test_the_loss_is_the_mean_absolute_error_and_a_tenth_of_what_structure_lacks() -> None:
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    identity = torch.nn.Identity()
    assert float(decoder._loss(identity, pictures / 255.0, pictures)) == pytest.approx(0.0, abs=1e-6)
    grey = torch.full((2, 3, 16, 16), 0.5)
    worst = float((grey - pictures / 255.0).abs().mean())
    assert worst < float(decoder._loss(identity, grey, pictures)) < worst + 0.11


@pytest.mark.parametrize("wrong", [{"attacker": "strong"}, {"redrawn": 0.0}, {"sizes": (10,)}, {"steps": 0}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(checks.UserError, match=next(iter(wrong))):
        Decoder(**wrong)
