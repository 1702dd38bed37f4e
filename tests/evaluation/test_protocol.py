"""The evaluation protocol with small fake protections whose right answer is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedveil import checks
from fedveil.data.faces import FaceSet, from_array
from fedveil.data.pairs import PairSet
from fedveil.evaluation import protocol, verification
from fedveil.randomness import SecretStream


@dataclasses.dataclass
class FakeProtection:
    """Pixels over 255 plus uniform noise of the given width from each image's own stream."""

    width: float = 0.0
    calls: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    noises: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def noise(self) -> bool:
        return self.width > 0

    def release(self, images: torch.Tensor, state: Any, streams: Sequence[SecretStream]) -> torch.Tensor:
        self.calls.append(("release", len(images)))
        assert len(streams) == len(images)
        count = images[0].numel()
        noise = np.stack([stream.uniform(count) - 0.5 for stream in streams])
        self.noises.append(noise)
        return images / 255.0 + self.width * torch.from_numpy(noise.astype(np.float32)).view(images.shape)

    def clean(self, images: torch.Tensor, state: Any) -> torch.Tensor:
        self.calls.append(("clean", len(images)))
        return images / 255.0

    def layout(self, size):
        return (3, *size)

    def features(self, released: torch.Tensor, state: Any) -> torch.Tensor:
        return released - 0.5


def people(count: int = 30, each: int = 3) -> FaceSet:
    rng = np.random.default_rng(1)
    base = rng.integers(40, 216, (count, 1, 3, 8, 8))
    images = np.clip(base + rng.normal(0, 45, (count, each, 3, 8, 8)), 0, 255).astype(np.uint8)
    labels = np.repeat(np.arange(count), each)
    return from_array(images.reshape(-1, 3, 8, 8), labels, [f"p{i}" for i in range(count)], synthetic=True)


def some_pairs(folds: int = 5, public: bool = True) -> PairSet:
    faces = people()
    rng = np.random.default_rng(2)
    left, right, fold = [], [], []
    for person in range(30):
        own = np.arange(3) + 3 * person
        others = np.flatnonzero((faces.labels % folds == person % folds) & (faces.labels != person))
        for i, j in ((own[0], own[1]), (own[1], own[2]), (own[0], others[0]), (own[2], rng.choice(others))):
            left.append(i), right.append(j), fold.append(person % folds)
    a, b = np.array(left), np.array(right)
    return PairSet(faces, a, b, faces.labels[a] == faces.labels[b], np.array(fold), declared_public=public)


def run(protection: FakeProtection, pairs: PairSet, draws: int = 3, seed: int = 1, **more: Any) -> protocol.Result:
    return protocol.evaluate(nn.Flatten(), protection, {}, pairs, draws, seed, repeats=50, **more)  # type: ignore[arg-type]


def test_without_noise_equals_the_metrics_of_plain_cosines() -> None:
    pairs = some_pairs()
    result = run(FakeProtection(), pairs)
    pixels = pairs.faces.images().reshape(len(pairs.faces), -1) / 255.0 - 0.5
    score = verification.scores(pixels[pairs.left], pixels[pairs.right])
    folds = verification.kfold_accuracy(score, pairs.same, pairs.folds)
    assert result.accuracy == pytest.approx(folds.mean)
    assert result.fold_sd == pytest.approx(folds.sd)
    assert (result.draw_sd, result.draws, result.pairs) == (None, 1, len(pairs))
    assert result.auc == pytest.approx(verification.auc(score, pairs.same))
    assert result.eer == pytest.approx(verification.eer(score, pairs.same))
    low, high = result.interval
    assert low <= result.accuracy <= high
    assert result.roc[0][0] == 0.0
    assert result.roc[-1] == (1.0, 1.0)
    assert list(result.roc) == sorted(result.roc)


def test_each_distinct_image_is_embedded_once_per_draw_and_side() -> None:
    pairs = some_pairs()
    quiet, noisy = FakeProtection(), FakeProtection(0.1)
    run(quiet, pairs, batch=1000)
    assert quiet.calls == [("release", len(np.unique([pairs.left, pairs.right])))]
    run(noisy, pairs, draws=2, batch=1000)
    assert noisy.calls == [("release", len(np.unique(side))) for side in (pairs.left, pairs.right)] * 2
    noises = np.concatenate(noisy.noises)
    assert len(np.unique(noises[:, 0])) == len(noises)  # every image, side and draw has its own noise


def test_repeatable_whatever_the_batch_and_the_global_seed() -> None:
    pairs = some_pairs()
    first = run(FakeProtection(0.5), pairs, batch=1000)
    torch.manual_seed(123)
    assert run(FakeProtection(0.5), pairs, batch=7) == first
    assert run(FakeProtection(0.5), pairs, seed=2) != first


def test_spread_over_draws() -> None:
    pairs = some_pairs()
    result = run(FakeProtection(4.0), pairs, draws=4)
    singles = []
    embedder = protocol._Embedder(nn.Flatten(), FakeProtection(4.0), {}, pairs, 1, 256)  # type: ignore[arg-type]
    for draw in range(4):
        score = embedder.scores(draw, "protected")
        singles.append(verification.kfold_accuracy(score, pairs.same, pairs.folds).mean)
    assert result.accuracy == pytest.approx(np.mean(singles))
    assert result.draw_sd == pytest.approx(np.std(singles, ddof=1))
    assert result.draw_sd > 0
    assert result.draws == 4
    assert run(FakeProtection(4.0), pairs, draws=1).draw_sd is None


def test_clean_gallery_spares_the_right_side_the_noise() -> None:
    pairs = some_pairs()
    protection = FakeProtection(3.0)
    result = run(protection, pairs, draws=2, gallery="clean", batch=1000)
    assert (
        protection.calls
        == [
            ("release", len(np.unique(pairs.left))),
            ("clean", len(np.unique(pairs.right))),
        ]
        * 2
    )
    assert result.auc > run(FakeProtection(3.0), pairs, draws=2).auc


def test_noise_hurts() -> None:
    pairs = some_pairs()
    areas = [run(FakeProtection(width), pairs).auc for width in (0.0, 2.0, 100.0)]
    assert areas[0] > areas[1] > areas[2]
    assert areas[2] == pytest.approx(0.5, abs=0.1)


def test_single_fold_is_divided() -> None:
    pairs = some_pairs()
    one = dataclasses.replace(pairs, folds=np.full(len(pairs), 3))
    result = run(FakeProtection(), one)
    assert len(result.thresholds) == 10
    assert 0.8 < result.accuracy <= 1.0


def test_unresolved_false_accept_rate_is_omitted_with_the_reason() -> None:
    result = run(FakeProtection(0.1), some_pairs(), fars=(0.1, 0.0001))
    assert isinstance(result.tar[0.1], float)
    assert result.tar[0.0001] == {"omitted": "FAR 0.0001 needs at least 10000 impostor pairs, there are 60"}


def test_undeclared_pairs_are_refused_before_any_face_is_read() -> None:
    pairs = some_pairs(public=False)
    protection = FakeProtection()
    with pytest.raises(checks.UserError, match="declared_public"):
        run(protection, pairs)
    assert protection.calls == []


@pytest.mark.parametrize("bad", [{"draws": 0}, {"gallery": "raw"}, {"batch": 0}, {"fars": (2.0,)}])
def test_bad_arguments_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(checks.UserError, match=next(iter(bad)).rstrip("s")):
        run(FakeProtection(), some_pairs(), **bad)


def test_a_model_that_guesses_has_collapsed_and_one_that_recognises_has_not() -> None:
    pairs = some_pairs()
    assert not run(FakeProtection(), pairs).collapsed
    assert not run(FakeProtection(2.0), pairs).collapsed
    assert run(FakeProtection(1e6), pairs, draws=20).collapsed


@pytest.mark.parametrize(
    ("accuracy", "eer", "same", "collapsed"),
    [
        (0.50, 0.50, 0.5, True),
        (0.52, 0.48, 0.5, True),
        (0.57, 0.48, 0.5, False),  # one of the two says more than chance
        (0.50, 0.40, 0.5, False),
        (0.90, 0.50, 0.9, True),  # nine of ten pairs are of one kind: guessing gets them right
        (0.90, 0.50, 0.1, True),
        (float("nan"), float("nan"), 0.5, True),
    ],
)
def test_collapse_is_both_rates_at_chance(accuracy: float, eer: float, same: float, collapsed: bool) -> None:
    assert protocol._collapsed(accuracy, eer, same) == collapsed


@pytest.mark.parametrize("width", [0.0, 0.5])
def test_flips_sum_the_embeddings_of_one_release_and_of_its_mirror_image(width: float, monkeypatch) -> None:
    """Against pixels: with the flattened image as the embedding, the sum is symmetric and no further draw is made."""
    protection, pairs = FakeProtection(width), some_pairs()
    seen: list[np.ndarray] = []
    scores = verification.scores
    monkeypatch.setattr(verification, "scores", lambda a, b: seen.extend((a, b)) or scores(a, b))
    monkeypatch.setattr(FakeProtection, "mirrored", lambda self, released: released.flip(-1), raising=False)
    run(protection, pairs, draws=1)
    calls, plain = [*protection.calls], [*seen]
    protection.calls.clear()
    seen.clear()
    run(protection, pairs, draws=1, flip=True)
    assert protection.calls == calls
    for one, both in zip(plain, seen, strict=True):
        pixels = one.reshape(-1, 3, 8, 8)
        assert np.allclose(both.reshape(pixels.shape), pixels + pixels[..., ::-1], atol=1e-6)
