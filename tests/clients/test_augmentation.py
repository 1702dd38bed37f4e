"""What varies from visit to visit: of a kept copy the copy, by public coins; nothing else is drawn, read or booked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fedveil import checks, config, frequency
from fedveil.configuration.recipe import Augment
from fedveil.data.faces import FaceSet
from fedveil.federation import instruction, recipe
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.privacy.ledger import Ledger
from fedveil.protections.dctdp import DCTDP
from fedveil.records import model_sha256
from fedveil_clients import distortion, sites, training
from fedveil_clients.augmentation import Augmentation, flipped
from fedveil_clients.policy import Node
from fedveil_clients.prepared import SHELF

SMALL = ["data.identities=6", "data.images_per_identity=4", "data.public_identities=4", "data.public_images=3",
         "data.evaluation_identities=4", "train.clients=2", "train.batch_size=6", "train.local.steps=2",
         "engine=inline", "model.width=8", "model.embedding=16"]  # fmt: skip
QUICK = {"dctdp": ["protection.fit_steps=0", "protection.init=zeros"], "none": [], "partialface": [], "dct": [],
         "minusface": ["protection.fit_steps=1"], "advface": ["protection.fit_steps=1", "protection.split_rounds=0"],
         "duetface": ["protection.fit_steps=0", "protection.client_rounds=0"]}  # fmt: skip
FLIP = "train.augment.flip=true"


def federation(protection: str, *words: str) -> Federation:
    return Federation.of([*SMALL, f"protection={protection}", *QUICK[protection], *words])


def state_of(run: Federation) -> dict[str, torch.Tensor]:
    public = run.split.public
    found: dict[str, torch.Tensor] = run.protection.fit(public.images(), public.labels, run.settings.seed)
    return found


def opened(run: Federation, vault, name: str = "run", state=None) -> sites.Site:
    state = state_of(run) if state is None else state
    node = Node("here", vault_root=str(vault), allow_test_seed=True)
    site = sites.open_site(run, name, "c0001", node, state)
    site.booked.on_disk()
    return site


def coins(step: int, count: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(Augmentation(Augment(flip=True), seed, "c0001").mirrored(step, count))


@pytest.fixture
def fed(monkeypatch):
    """What dctdp's features are computed from, as it comes."""
    seen: list[torch.Tensor] = []
    features = DCTDP.features
    spy = lambda self, released, state: seen.append(released.clone()) or features(self, released, state)  # noqa: E731
    monkeypatch.setattr(DCTDP, "features", spy)
    return seen


def test_coins_are_fair_public_and_of_one_place_and_step() -> None:
    drawn = np.stack([Augmentation(Augment(flip=True), 1, "c0001").mirrored(step, 50) for step in range(100)])
    assert abs(drawn.mean() - 0.5) < 0.03
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.25
    assert torch.equal(coins(7, 50), torch.from_numpy(drawn[7]))
    elsewhere = torch.from_numpy(Augmentation(Augment(flip=True), 1, "c0002").mirrored(7, 50))
    for other in (coins(8, 50), coins(7, 50, seed=2), elsewhere):
        assert not torch.equal(coins(7, 50), other)
    assert not Augmentation(Augment(), 1, "c0001").mirrored(7, 50).any()


@pytest.mark.parametrize("mode", [[], ["protection.mode=coefficient"], ["protection.spatial=true"]])
def test_a_flip_is_of_the_kept_copy_and_no_other_draw(tmp_path, monkeypatch, fed, mode) -> None:
    index = np.arange(12)
    plain, varied = (federation("dctdp", *mode, *words) for words in ([], [FLIP]))
    opened(plain, tmp_path, "plain").features(index, 0)
    copies = fed.pop()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    rows = ledger.rows()
    site = opened(varied, tmp_path, "varied")
    assert [row.status for row in ledger.rows()[len(rows) :]] == ["reused"]
    monkeypatch.setattr(FaceSet, "images", lambda *_: pytest.fail("a picture was read"))
    monkeypatch.setattr(DCTDP, "release", lambda *_: pytest.fail("noise was drawn"))
    fed.clear()
    for step in range(4):
        site.features(index, step)
        which = coins(step, len(index))
        assert 0 < which.sum() < len(index)
        assert torch.equal(fed[-1][~which], copies[~which])
        assert torch.equal(fed[-1][which], varied.protection.mirrored(copies[which]))
        assert not torch.isclose(fed[-1][which], copies[which]).all(dim=(1, 2, 3)).any()


def test_a_fresh_draw_is_mirrored_after_it_is_drawn(tmp_path, fed) -> None:
    words = ["protection.memoise=false", "privacy.test_seed=4"]
    opened(federation("dctdp", *words), tmp_path / "a").features(np.arange(8), 2)
    opened(federation("dctdp", *words, FLIP), tmp_path / "b").features(np.arange(8), 2)
    which, (drawn, varied) = coins(2, 8), fed
    assert torch.equal(varied, torch.where(which[:, None, None, None], frequency.mirrored(drawn, frequency.AC), drawn))


@pytest.mark.parametrize("protection", ["none", "dct", "partialface", "minusface", "advface", "duetface"])
def test_without_a_guarantee_the_picture_is_mirrored_before_anything_is_computed(tmp_path, protection) -> None:
    """What is prepared once per image is prepared once per side of it, and changes no bit."""
    run, index = federation(protection, FLIP), np.array([3, 0, 5, 1, 2, 4])
    state = state_of(run)
    site = opened(run, tmp_path, "run", state)
    found, again = site.features(index, 1), site.features(index, 1)
    assert torch.equal(found, again)
    which = coins(1, 6)
    assert 0 < which.sum() < 6
    plain = opened(federation(protection), tmp_path, "plain", state)
    images = FaceSet.images
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaceSet, "images", lambda self, at=None: images(self, at)[..., ::-1].copy())
        SHELF.of(b"another mechanism", [], lambda at: None)  # forget what was prepared of the pictures as they are
        turned = opened(federation(protection), tmp_path, "turned", state).features(index, 1)
        SHELF.of(b"yet another", [], lambda at: None)
    straight = plain.features(index, 1)
    assert torch.allclose(found[~which], straight[~which], atol=1e-5)
    assert torch.allclose(found[which], turned[which], atol=1e-5)
    assert not torch.allclose(found[which], straight[which], atol=1e-3)


def test_a_round_run_again_sees_the_same_sides(tmp_path) -> None:
    run = federation("dctdp", FLIP)
    tensors = get_tensors(run.backbone())
    hashes = [
        model_sha256(training.train_round(opened(run, tmp_path, name), number, tensors).tensors)
        for name, number in (("a", 2), ("a", 2), ("b", 2), ("b", 3))
    ]
    assert len({*hashes[:3]}) == 1
    assert hashes[3] != hashes[0]
    plain = federation("dctdp")
    assert model_sha256(training.train_round(opened(plain, tmp_path, "c"), 2, tensors).tensors) != hashes[0]


def test_mirrored_pictures() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 5), dtype=np.uint8)
    found = flipped(images, np.array([True, False, True]))
    assert np.array_equal(found[1], images[1])
    assert all(np.array_equal(np.fliplr(plane), other) for plane, other in zip(images[2], found[2], strict=True))


@pytest.mark.parametrize("protection", ["partialface", "duetface", "minusface", "advface"])
def test_a_release_that_does_not_give_its_mirror_image_is_not_mirrored_at_evaluation(protection) -> None:
    with pytest.raises(checks.UserError, match=rf"evaluation\.flip=always needs .* protection={protection} does not"):
        federation(protection, "evaluation.flip=always")
    run = federation(protection, "evaluation.flip=auto")
    assert not recipe.evaluates_flips(run.settings, run.protection)
    images, state = torch.from_numpy(run.split.public.images([0, 4])), state_of(run)
    found, turned = run.protection.clean(images, state), run.protection.clean(images.flip(-1), state)
    assert not torch.allclose(found.flip(-1), turned, atol=0.05 * float(turned.std())), "the refusal has its reason"


@pytest.mark.parametrize("protection", ["none", "dct", "dctdp"])
def test_evaluation_flips_where_it_is_said(protection) -> None:
    for word, expected in (("none", False), ("auto", True), ("always", True)):
        run = federation(protection, f"evaluation.flip={word}")
        assert recipe.evaluates_flips(run.settings, run.protection) is expected


def test_a_flip_that_would_be_a_second_draw_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(DCTDP, "mirrors", False)
    with pytest.raises(checks.UserError, match=r"train\.augment\.flip=true would need a second draw .*=dctdp"):
        federation("dctdp", FLIP)


@pytest.mark.parametrize("word", ["train.augment.crop=0.1", "train.augment.jitter=0.2"])
def test_what_changes_a_picture_before_its_noise_is_refused_where_a_copy_is_kept(word) -> None:
    with pytest.raises(checks.UserError, match=rf"{word} changes a picture before its noise, .*another release"):
        federation("dctdp", word)
    tree = json.loads(instruction.to_wire(federation("none", word).settings))
    arrived = json.dumps({**tree, "protection": config.to_tree(federation("dctdp").settings)["protection"]})
    with pytest.raises(instruction.BadInstruction, match="another release"):  # nor is an owner talked into it
        instruction.from_wire(arrived)
    assert federation("dctdp", word, "protection.memoise=false").planned_event.releases > 1


def test_a_crop_is_the_picture_of_the_part() -> None:
    """Of a plane that is linear in x and y, a bilinear crop is linear again, from the box's edge to its other edge."""
    x, y = np.meshgrid((np.arange(40) + 0.5) / 40, (np.arange(40) + 0.5) / 40)
    images = np.stack([200 * x, 200 * y, 100 * x + 100 * y]).round().astype(np.uint8)[None].repeat(2, 0)
    side, left, top = 0.6, 0.3, 0.1
    found = distortion.cropped(images, np.array([[side, left, top], [1.0, 0.0, 0.0]]))
    inner = slice(2, -2)
    across, down = left + side * x, top + side * y
    expected = np.stack([200 * across, 200 * down, 100 * across + 100 * down])
    assert np.abs(found[0].astype(float) - expected)[:, inner, inner].max() <= 1.5
    assert np.array_equal(found[1], images[1])


def test_jitter_changes_what_it_names_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(60, 160, (4, 3, 16, 16), dtype=np.uint8)
    factors = np.array([[1.0, 1.0, 1.0], [1.3, 1.0, 1.0], [1.0, 0.5, 1.0], [1.0, 1.0, 0.0]])
    same, bright, flat, grey = distortion.jittered(images, factors).astype(float)
    assert np.array_equal(same, images[0])
    assert np.abs(bright - 1.3 * images[1]).max() <= 0.5 + 1e-3
    luma = np.tensordot([0.299, 0.587, 0.114], images.astype(float), (0, 1))
    assert np.abs(flat - (luma[2].mean() + 0.5 * (images[2] - luma[2].mean()))).max() <= 0.51
    assert np.abs(grey - luma[3]).max() <= 0.51


@pytest.mark.parametrize("protection", ["none", "minusface"])
def test_visits_differ_and_a_step_that_is_run_again_does_not(tmp_path, protection) -> None:
    words = ["train.augment.crop=0.2", "train.augment.jitter=0.2", FLIP]
    run, index = federation(protection, *words), np.arange(4)
    site = opened(run, tmp_path)
    found = [site.features(index, step) for step in (0, 1, 0)]
    assert torch.equal(found[0], found[2])
    assert not torch.isclose(found[0], found[1]).all(dim=(1, 2, 3)).any()
    varied = Augmentation(run.settings.train.augment, run.settings.seed, "c0001")
    faces = run.faces_of("c0001").images(index)
    shown = torch.from_numpy(varied.distorted(flipped(faces, varied.mirrored(0, 4)), 0))
    if protection == "none":
        assert torch.equal(found[0], (shown.float() - 127.5) / 127.5)
    assert 0 < np.abs(shown.numpy().astype(float) - faces).mean() < 80


@pytest.mark.parametrize("word", ["train.augment.crop=1", "train.augment.jitter=-0.1"])
def test_sizes_without_a_meaning_are_refused(word) -> None:
    with pytest.raises(checks.UserError, match=word.partition("=")[0]):
        federation("none", word)
