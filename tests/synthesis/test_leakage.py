"""Copies of members are found; a set that has nothing to do with them is not blamed; groups cannot be mixed up."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest

from fedveil import checks
from fedveil.data.faces import FaceSet, from_array
from fedveil.synthesis import _membership, _search
from fedveil.synthesis._search import Search, nearest
from fedveil.synthesis.leakage import leakage

CHANCE = ("chance_low", "chance_high", "p")


@dataclasses.dataclass
class Pixels:
    """A judge that sees pixels."""

    said: dict[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "pixels"})

    def embed(self, images: np.ndarray) -> np.ndarray:
        rows = images.reshape(len(images), -1).astype(np.float64) - 127.5
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def people(name: str, count: int, pictures: int, seed: int, public: bool = True) -> FaceSet:
    """Return people whose pictures resemble each other."""
    rng = np.random.default_rng(seed)
    faces = np.repeat(rng.integers(30, 225, (count, 3, 4, 4)), pictures, axis=0)
    images = np.clip(faces + rng.normal(0, 25, faces.shape), 0, 255).astype(np.uint8)
    labels = np.repeat(np.arange(count), pictures)
    return from_array(images, labels, [f"{name}{i}" for i in range(count)], public=public)


MEMBERS, STRANGERS = people("m", 40, 3, 1), people("s", 40, 3, 2)


def copies(of: FaceSet, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Return two noisy copies of the first picture of each of some people, as synthetic people."""
    rng = np.random.default_rng(5)
    images = np.repeat(of.images(3 * np.arange(count)), 2, axis=0)
    return np.clip(images + rng.normal(0, 5, images.shape), 0, 255).astype(np.uint8), np.repeat(np.arange(count), 2)


def test_copies_of_members_are_found_and_named() -> None:
    images, labels = copies(MEMBERS, 40)
    found = leakage(images, labels, Pixels(), MEMBERS, STRANGERS, far=1e-2)
    json.dumps(found, allow_nan=False)
    assert found["membership"]["value"] > 0.99
    assert found["membership"]["low"] > 0.95
    assert found["nearest_is_member"]["value"] == pytest.approx(1)
    assert found["nearest_is_member"]["p"] < 0.01
    assert found["distributions"]["ks"]["p"] < 1e-6
    assert found["verdict"].endswith("the set leaks.")
    assert found["above"]["members"] == found["above"]["all_members"] == 80
    assert found["above"]["strangers"] < 60  # 120 pictures at a rate of 1e-2 each
    assert found["first"] == {"people": 10, "value": 10.0, **{key: found["first"][key] for key in CHANCE}}
    assert found["first"]["p"] < 0.005
    assert len(found["nearest"]) == 50
    for pair in found["nearest"]:
        assert pair["position"] == 3 * pair["label"] == 3 * (pair["synthetic"] // 2)
        assert pair["member"] == f"m{pair['label']}"
    cosines = [pair["cosine"] for pair in found["nearest"]]
    assert cosines == sorted(cosines, reverse=True)


def test_copies_of_strangers_are_no_leak_of_members() -> None:
    """Which group is which matters: the same set, members and strangers exchanged."""
    found = leakage(*copies(MEMBERS), Pixels(), STRANGERS, MEMBERS, far=1e-2)
    assert found["membership"]["value"] < 0.35
    assert found["nearest_is_member"]["value"] == pytest.approx(0)
    assert "no nearer" in found["verdict"]
    assert found["above"]["strangers"] == 60 > found["above"]["members"]


def test_the_threshold_comes_from_pairs_of_different_strangers() -> None:
    members = people("m", 40, 3, 1)
    alike = from_array(members.images() // 4 + 150, members.labels, tuple(members.names))  # all of them bright
    found = leakage(*copies(members), Pixels(), alike, STRANGERS, far=1e-2)
    rows = Pixels().embed(STRANGERS.images())
    pairs = [
        float(rows[i] @ rows[j]) for i, j in itertools.combinations(range(120), 2)
        if STRANGERS.labels[i] != STRANGERS.labels[j]
    ]  # fmt: skip
    above = np.mean(np.array(pairs) > found["above"]["threshold"])
    assert 0.009 < above <= 0.01


def test_a_few_copies_among_many_are_found() -> None:
    mine, others = copies(MEMBERS, 10), people("x", 30, 2, 9)
    images = np.concatenate([mine[0], others.images()])
    labels = np.concatenate([mine[1], 10 + others.labels])
    found = leakage(images, labels, Pixels(), MEMBERS, STRANGERS)
    assert found["verdict"].endswith("the set leaks.")
    assert found["membership"]["value"] == pytest.approx(0.5 + 0.25 / 2, abs=0.12)
    assert found["first"]["p"] < 0.005 < found["membership"]["p"]  # the area hardly sees them


def test_a_set_of_other_people_is_rarely_blamed() -> None:
    """Members are more than strangers, and have more pictures each: that must not make them seem nearer."""
    blamed = covered = 0
    for seed in range(60):
        members, strangers = people("m", 90, 4, 3 * seed), people("s", 30, 2, 3 * seed + 1)
        other = people("x", 20, 2, 3 * seed + 2)
        found = leakage(other.images(), other.labels, Pixels(), members, strangers, seed, pairs=1)
        blamed += found["verdict"].endswith("the set leaks.")
        covered += found["membership"]["low"] <= 0.5 <= found["membership"]["high"]
        assert found["people"]["compared"] == 30
        assert found["images"]["compared"] == 60
    assert blamed <= 8
    assert covered >= 52


def test_groups_are_made_equal_person_by_person() -> None:
    rng = np.random.default_rng(0)

    def group(counts: list[int]) -> Search:
        person = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        return Search(np.arange(len(person))[:, None] * 1.0, np.arange(len(person)), person)

    first, second = group([5, 1, 3, 2]), group([2, 4, 4])
    one, two = _search.equal(first, second, 1)
    assert np.array_equal(one.person, two.person)
    assert np.array_equal(np.unique(one.person), [0, 1, 2])
    for whole, part in ((first, one), (second, two)):
        assert len(set(part.places)) == len(part.places)
        owners = [set(whole.person[part.places[part.person == number]].tolist()) for number in range(3)]
        assert all(len(owner) == 1 for owner in owners)
        assert len(set.union(*owners)) == 3
        assert np.array_equal(part.embeddings[:, 0], part.places)


def test_nearest_is_that_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_search, "_COSINES", 30)
    rng = np.random.default_rng(2)
    rows, synthetic = rng.normal(size=(14, 5)), rng.normal(size=(9, 5))
    person = rng.permutation(np.repeat(np.arange(4), [2, 5, 3, 4]))
    found = nearest(synthetic, Search(rows, np.arange(14), person))
    cosines = synthetic @ rows.T
    np.testing.assert_allclose(found.cosine, cosines.max(1))
    assert np.array_equal(found.picture, cosines.argmax(1))
    np.testing.assert_allclose(found.people, [cosines[:, person == number].max() for number in range(4)])


def test_chance_exchanges_the_people_of_one_number() -> None:
    rng = np.random.default_rng(3)
    numbers = np.repeat(np.arange(5), 2)
    rows = [rng.normal(size=(10, 4)) for _ in range(2)]
    synthetic, weights = rng.normal(size=(7, 4)), np.full(7, 1 / 7)
    groups = [Search(one, np.arange(10), numbers) for one in rows]
    near = [nearest(synthetic, group) for group in groups]
    found = _membership.nearest_share(*near, numbers, weights, rng)
    area = _membership.area(*(one.people for one in near), rng)
    first = _membership.first_people(*(one.people for one in near), rng)
    shares, areas, firsts = [], [], []
    for coins in itertools.product([False, True], repeat=5):
        swap = np.array(coins)[numbers][:, None]
        mixed = [np.where(swap, rows[1 - i], rows[i]) for i in (0, 1)]
        shares.append(np.mean((synthetic @ mixed[0].T).max(1) > (synthetic @ mixed[1].T).max(1)))
        best = [(synthetic @ one.T).max(0).reshape(5, 2).max(1) for one in mixed]
        areas.append(np.mean(best[0][:, None] > best[1]))
        firsts.append(np.sum(best[0] >= np.sort(np.concatenate(best))[-5]))
    for sign, values in ((found, shares), (area, areas), (first, firsts)):
        assert sign["value"] == pytest.approx(values[0])
        assert sign["p"] == pytest.approx(np.mean(np.array(values) >= values[0] - 1e-9), abs=0.03)
        assert min(values) - 1e-9 <= sign["chance_low"] <= np.quantile(values, 0.1) + 1e-9


def test_the_area_and_its_interval_are_those_of_resampled_people() -> None:
    rng = np.random.default_rng(4)
    members, strangers = np.round(rng.normal(0.4, 1, 40), 1), np.round(rng.normal(0, 1, 40), 1)  # with ties

    def naive(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean((one[:, None] > other) + (one[:, None] == other) / 2))

    found = _membership.area(members, strangers, np.random.default_rng(1))
    assert found["value"] == pytest.approx(naive(members, strangers))
    drawn = [naive(rng.choice(members, 40), rng.choice(strangers, 40)) for _ in range(2000)]
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)


def test_people_in_both_groups_are_refused() -> None:
    both = from_array(STRANGERS.images(), STRANGERS.labels, ["m3", *(f"s{i}" for i in range(1, 40))])
    with pytest.raises(checks.UserError, match=r"1 people are members and strangers, for example \['m3'\]"):
        leakage(*copies(MEMBERS), Pixels(), MEMBERS, both)


def test_too_little_is_said_to_be_too_little() -> None:
    few = STRANGERS.subset(np.arange(27))
    with pytest.raises(checks.UserError, match="Expected 10 strangers or more, got 9"):
        leakage(*copies(MEMBERS), Pixels(), MEMBERS, few)
    found = leakage(*copies(MEMBERS), Pixels(), MEMBERS, STRANGERS, far=1e-4)
    assert found["above"]["omitted"].startswith("it needs 100000 pairs of different strangers, there are 7020")
    assert set(found["above"]) == {"far", "omitted"}
