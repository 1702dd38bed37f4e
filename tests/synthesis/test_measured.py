"""What a recogniser says of faces, against loops over pictures and people."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from fedveil.evaluation import verification
from fedveil.synthesis import _measured
from fedveil.synthesis._measured import attributes, measured, pairs_of


def faces(people: int = 12, seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings and labels of people with two to five pictures, in no order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(people), rng.integers(2, 6, people)))
    rows = rng.normal(size=(people, 10))[labels] + noise * rng.normal(size=(len(labels), 10))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def test_every_number_is_what_its_words_say() -> None:
    rows, labels = faces()
    found, _ = measured(rows, labels, 1, {"elsewhere": {0.01: 0.8}})
    json.dumps(found, allow_nan=False)
    people = range(12)
    own = {person: rows[labels == person] for person in people}
    pairs = {person: [float(a @ b) for a, b in itertools.combinations(own[person], 2)] for person in people}
    different = [
        float(rows[i] @ rows[j]) for i, j in itertools.combinations(range(len(rows)), 2) if labels[i] != labels[j]
    ]  # fmt: skip
    same = [one for person in people for one in pairs[person]]
    consistency = found["consistency"]
    assert consistency["pairs"] == {"same": len(same), "different": len(different)}
    assert consistency["pair_cosine"]["value"] == pytest.approx(np.mean([np.mean(pairs[p]) for p in people]))
    assert consistency["auc"] == pytest.approx(np.mean(np.array(same)[:, None] > np.array(different)))
    centre = []
    for person in people:
        cosines = []
        for number in range(len(own[person])):
            others = np.delete(own[person], number, axis=0).sum(axis=0)
            cosines.append(own[person][number] @ others / np.linalg.norm(others))
        centre.append(np.mean(cosines))
    assert consistency["centre_cosine"]["value"] == pytest.approx(np.mean(centre))
    assert consistency["accepted_at"]["elsewhere"]["0.01"]["value"] == pytest.approx(np.mean(np.array(same) > 0.8))
    centres = np.array([own[p].sum(0) / np.linalg.norm(own[p].sum(0)) for p in people])
    between = [centres[i] @ centres[j] for i, j in itertools.combinations(people, 2)]
    assert found["between"]["mean_cosine"]["value"] == pytest.approx(np.mean(between))
    assert found["between"]["largest_cosine"]["value"] == pytest.approx(np.max(between))
    spread = [np.sqrt(own[p].var(axis=0, ddof=1).sum()) for p in people]
    assert found["within"]["embedding_sd"]["value"] == pytest.approx(np.mean(spread))
    for part in (consistency["pair_cosine"], found["between"]["mean_cosine"], found["within"]["embedding_sd"]):
        assert part["low"] < part["value"] < part["high"]


def test_rates_are_those_of_verification_and_need_enough_pairs() -> None:
    rows, labels = faces(people=30)
    found, thresholds = measured(rows, labels, 1, {})
    pairs = pairs_of(rows, labels, 1)
    assert 1000 <= len(pairs.different) < 10_000
    scores = np.concatenate([pairs.same, pairs.different])
    expected = verification.tar_at_far(scores, np.arange(len(scores)) < len(pairs.same), [0.01])[0.01]
    tar = found["consistency"]["tar"]
    assert tar["0.01"]["value"] == pytest.approx(expected)
    assert tar["0.01"]["low"] <= expected <= tar["0.01"]["high"]
    assert np.mean(pairs.same > thresholds[0.01]) == pytest.approx(expected)
    few = f"FAR 0.001 needs 10000 pairs of different people, there are {len(pairs.different)}"
    assert tar["0.001"] == {"omitted": few}
    assert "accepted_at" not in found["consistency"]


def test_of_too_many_pairs_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = faces(people=40)
    whole = pairs_of(rows, labels, 1)
    monkeypatch.setattr(_measured, "_PAIRS", 120)
    monkeypatch.setattr(_measured, "_CHUNK", 50)
    some = pairs_of(rows, labels, 1)
    assert len(some.same) <= 120
    assert 100 <= len(some.different) <= 120
    assert set(np.round(some.same, 9)) <= set(np.round(whole.same, 9))
    assert set(np.round(some.different, 9)) <= set(np.round(whole.different, 9))
    assert np.bincount(some.person, minlength=40).min() >= 1
    assert np.array_equal(pairs_of(rows, labels, 1).different, some.different)


def test_the_interval_between_people_covers_what_other_people_would_give() -> None:
    inside = 0
    for seed in range(40):
        rows, labels = faces(people=25, seed=seed)
        rows += 0.5 * np.eye(10)[0]
        part = measured(rows, labels, seed, {})[0]["between"]["mean_cosine"]
        inside += part["low"] <= TRUTH <= part["high"]
    assert inside >= 32


def truth() -> float:
    rng = np.random.default_rng(99)
    rows = rng.normal(size=(4000, 10))
    count = rng.integers(2, 6, 4000)
    out = []
    for person in range(4000):
        pictures = rows[person] + 0.5 * rng.normal(size=(count[person], 10))
        pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
        pictures += 0.5 * np.eye(10)[0]
        pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
        out.append(pictures.sum(0) / np.linalg.norm(pictures.sum(0)))
    total = np.sum(out, axis=0)
    return float((total @ total - 4000) / (4000 * 3999))


TRUTH = truth()


def test_attributes_vary_within_people_and_over_all() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(200), 4)
    described = np.stack([rng.normal(size=800), rng.normal(size=200)[labels]], axis=1)
    found = attributes(described, labels, ("yaw", "light"), 1)
    assert found["yaw"]["within"]["value"] == pytest.approx(0.92, abs=0.06)  # the mean of four draws' deviation
    assert found["light"]["within"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["light"]["overall"]["value"] == pytest.approx(1, abs=0.12)
