"""Anchors: none near a real person, far apart where they fit, plausible, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedveil import checks
from fedveil.synthesis import anchors as module
from fedveil.synthesis.anchors import anchors


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def people(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, dimension)))


def isotropic(dimension: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(dimension), torch.eye(dimension)


NOBODY = 1.0
"""A threshold that rejects nothing."""


def off_diagonal(vectors: np.ndarray) -> np.ndarray:
    cosines = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    return cosines[~np.eye(len(cosines), dtype=bool)]


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_no_anchor_is_near_a_real_person(scale: float) -> None:
    real = people(40, 6)
    found = anchors(30, *isotropic(6), scale * real, seed=1, threshold=0.7, farthest=1.0, steps=50)
    cosines = found.vectors.astype(np.float64) @ real.T
    assert found.vectors.shape == (30, 6)
    assert cosines.max() <= 0.7
    assert found.largest_real == pytest.approx(cosines.max(), abs=1e-12)
    assert found.near_real > 10  # the rule had something to do
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)


def test_every_real_face_counts_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 100)
    real = np.concatenate([np.tile(np.eye(5)[:1], (299, 1)), -np.eye(5)[:1]])
    found = anchors(20, *isotropic(5), real, seed=1, threshold=0.3, farthest=1.0, steps=20)
    assert np.abs(found.vectors[:, 0]).max() <= 0.3


def test_spare_anchors_are_near_nobody_either() -> None:
    """Where more are wanted than fit apart, those that fill up meet the rule about real people too."""
    real = people(8, 3)
    found = anchors(25, *isotropic(3), real, seed=2, threshold=0.8, farthest=0.3, steps=30)
    assert found.largest > 0.3
    assert found.near_other > 0
    assert found.near_real > 0
    assert (found.vectors.astype(np.float64) @ real.T).max() <= 0.8


def test_too_few_far_from_real_people_are_refused_with_the_remedy() -> None:
    with pytest.raises(checks.UserError, match=r"of identities=5 anchors .* Ask for fewer"):
        anchors(5, *isotropic(3), people(400, 3), seed=1, threshold=0.5, steps=5)


@pytest.mark.parametrize(
    "real", [np.zeros((0, 4)), np.zeros((3, 4)), np.full((2, 4), np.nan), np.ones((3, 5))], ids=lambda x: str(x.shape)
)
def test_without_the_real_embeddings_there_are_no_anchors(real: np.ndarray) -> None:
    with pytest.raises(checks.UserError, match="real"):
        anchors(2, *isotropic(4), real, seed=1, threshold=0.5)


@pytest.mark.parametrize(("dimension", "count", "best"), [(2, 5, np.cos(2 * np.pi / 5)), (3, 4, -1 / 3), (3, 6, 0.0)])
def test_few_anchors_reach_the_known_best_packing(dimension: int, count: int, best: float) -> None:
    found = anchors(count, *isotropic(dimension), people(1, dimension), seed=1, threshold=NOBODY, farthest=1.0)
    assert found.largest == pytest.approx(off_diagonal(found.vectors).max(), abs=1e-6)
    assert best - 1e-6 <= found.largest < best + 0.08


def test_packing_beats_chance_and_stops_where_no_more_fit() -> None:
    chance = off_diagonal(people(60, 16)).max()
    found = anchors(60, *isotropic(16), people(1, 16), seed=1, threshold=NOBODY, farthest=-0.5, steps=60)
    assert len(found.vectors) == 60
    assert found.largest < chance - 0.1
    wide = anchors(60, *isotropic(64), people(1, 64), seed=1, threshold=NOBODY, farthest=0.3, steps=20)
    assert wide.largest <= 0.3
    assert wide.near_other == 0


def test_many_candidates_are_packed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BESIDE", 16)
    found = anchors(60, *isotropic(16), people(1, 16), seed=1, threshold=NOBODY, farthest=1.0, steps=40)
    assert found.largest < off_diagonal(people(60, 16)).max() - 0.05


def test_anchors_stay_plausible() -> None:
    """In the span of public embeddings, and no farther from their mean than usual."""
    rng = np.random.default_rng(3)
    mean, factor = 2 * rng.normal(size=12), rng.normal(size=(12, 3)) * [1.0, 0.5, 0.1]
    found = anchors(
        20, torch.tensor(mean), torch.tensor(factor), people(1, 12), seed=1, threshold=NOBODY, farthest=0.99, steps=50
    )  # fmt: skip
    basis = np.column_stack([mean, factor])
    parts, residual, _, _ = np.linalg.lstsq(basis, found.vectors.T.astype(np.float64), rcond=None)
    assert residual.max() < 1e-8
    n = parts[1:] / parts[0]  # on the ray of an anchor, the point with one mean
    for shape in (np.eye(3), factor):
        usual = np.linalg.norm(rng.normal(size=(100_000, 3)) @ shape.T, axis=1)
        assert np.linalg.norm(n.T @ shape.T, axis=1).max() <= np.quantile(usual, 0.99)


def test_a_seed_repeats_and_another_one_differs() -> None:
    first, again, other = (anchors(8, *isotropic(6), people(5, 6), seed, 0.8, steps=10).vectors for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_anchor_alone() -> None:
    found = anchors(1, *isotropic(4), people(3, 4), seed=1, threshold=0.6, steps=5)
    assert found.vectors.shape == (1, 4)
    assert found.largest == -1.0


@pytest.mark.parametrize("wrong", [{"count": 0}, {"threshold": 2.0}, {"threshold": float("nan")}, {"steps": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(checks.UserError, match="Expected"):
        anchors(**{"count": 2, "mean": torch.zeros(4), "factor": torch.eye(4), "real": people(2, 4), "seed": 1,
                   "threshold": 0.5, **wrong})  # type: ignore[arg-type]  # fmt: skip
