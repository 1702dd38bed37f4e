from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil import checks
from fedveil.data import pairs as module
from fedveil.data.faces import FaceSet, from_array
from fedveil.data.numbered import Numbered
from fedveil.data.pairs import PairSet, balanced_pairs, disjoint_folds
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.split import Split, shared_people


def some_faces(counts: list[int], prefix: str = "n", size: int = 8) -> FaceSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    return from_array(
        np.zeros((labels.size, 3, size, size), np.uint8), labels, [f"{prefix}{i}" for i in range(len(counts))]
    )


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 5), min_size=2, max_size=30).filter(lambda c: max(c) >= 2),
    count=st.integers(1, 120),
    folds=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_balanced_pairs_are_distinct_balanced_and_folds_share_nobody(
    counts: list[int], count: int, folds: int, seed: int
) -> None:
    faces = some_faces(counts)
    pairs = balanced_pairs(faces, count, np.random.default_rng(seed), folds)
    assert len(pairs) <= count
    unordered = {frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}
    assert len(unordered) == len(pairs)
    assert all(len(pair) == 2 for pair in unordered)
    home: dict[int, int] = {}
    for left, right, same, fold in zip(pairs.left, pairs.right, pairs.same, pairs.folds, strict=True):
        assert (faces.labels[left] == faces.labels[right]) == same
        for side in (left, right):
            assert home.setdefault(int(faces.labels[side]), int(fold)) == fold
    for fold in range(folds):
        own = pairs.same[pairs.folds == fold]
        assert own.sum() * 2 == own.size


def test_all_pairs_are_found_when_all_are_wanted() -> None:
    faces = some_faces([3, 3])
    pairs = balanced_pairs(faces, 1000, np.random.default_rng(0), folds=10)
    same = {(a, b) for a, b in itertools.combinations(range(6), 2) if faces.labels[a] == faces.labels[b]}
    found = set(zip(pairs.left[pairs.same].tolist(), pairs.right[pairs.same].tolist(), strict=True))
    assert found == same
    assert (~pairs.same).sum() == len(same)


def test_same_pairs_visit_everybody_before_anybody_twice() -> None:
    faces = some_faces([20, 3, 3, 3])
    pairs = balanced_pairs(faces, 8, np.random.default_rng(0), folds=1)
    assert sorted(faces.labels[pairs.left[pairs.same]].tolist()) == [0, 1, 2, 3]


def test_impossible_pairs_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(checks.UserError, match="at least 2 identities, got 1"):
        balanced_pairs(some_faces([4]), 10, rng)
    with pytest.raises(checks.UserError, match="all 3 have one"):
        balanced_pairs(some_faces([1, 1, 1]), 10, rng)
    faces = some_faces([2, 2])
    with pytest.raises(checks.UserError, match="agree with the identities"):
        PairSet(faces, np.array([0]), np.array([2]), np.array([True]), np.array([0]))
    with pytest.raises(checks.UserError, match=r"images 0\.\.3"):
        PairSet(faces, np.array([0]), np.array([4]), np.array([True]), np.array([0]))


@given(
    edges=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=1, max_size=40),
    folds=st.integers(1, 6),
)
def test_disjoint_folds_never_share_a_person(edges: list[tuple[int, int]], folds: int) -> None:
    table = np.array(edges)
    found = disjoint_folds(table[:, 0], table[:, 1], folds)
    people = [set(table[found == fold].ravel().tolist()) for fold in range(folds)]
    assert sum(map(len, people)) == len(set(table.ravel().tolist()))
    assert set(found.tolist()) <= set(range(folds))


def test_pairs_of_unreadable_pictures_are_left_out_and_the_others_stay() -> None:
    faces = some_faces([3] * 8)
    whole = balanced_pairs(faces, 40, np.random.default_rng(0))
    broken = np.isin(np.arange(24), [4, 5, 20])
    some = balanced_pairs(dataclasses.replace(faces, unreadable=broken), 40, np.random.default_rng(0))
    assert some.faces.unreadable is None
    kept = ~(broken[whole.left] | broken[whole.right])
    assert 0 < kept.sum() < len(whole)
    assert some.faces.index[some.left].tolist() == whole.left[kept].tolist()
    assert some.faces.index[some.right].tolist() == whole.right[kept].tolist()
    assert some.folds.tolist() == whole.folds[kept].tolist()
    with pytest.raises(checks.UserError, match="No verification pair has two readable pictures"):
        balanced_pairs(dataclasses.replace(faces, unreadable=np.ones(24, bool)), 40, np.random.default_rng(0))


def test_a_person_with_thousands_of_pictures_does_not_list_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_POOL", 10)
    labels = some_faces([400, 3, 10]).labels
    found = module._same_pairs(labels, np.arange(labels.size), np.random.default_rng(0))
    assert np.bincount(labels[found[:, 0]]).tolist() == [45, 3, 45]
    assert np.unique(found[labels[found[:, 0]] == 0]).size == 10
    assert (labels[found[:, 0]] == labels[found[:, 1]]).all()
    assert len({frozenset(pair) for pair in found.tolist()}) == 93


def test_where_keeps_the_faces() -> None:
    pairs = balanced_pairs(some_faces([2] * 8), 8, np.random.default_rng(0), folds=2)
    part = pairs.where(pairs.folds == 1)
    assert part.faces is pairs.faces
    assert set(part.folds.tolist()) == {1}


def test_split_refuses_a_person_in_two_sets_and_mixed_sizes() -> None:
    pairs = balanced_pairs(some_faces([2, 2], "e"), 2, np.random.default_rng(0))
    train, public = some_faces([1, 1], "t"), some_faces([1], "u")
    Split(train, pairs, public)
    with pytest.raises(checks.UserError, match=r"2 identities are in both train and evaluation.*e0"):
        Split(some_faces([1, 1, 1], "e"), pairs, public)
    with pytest.raises(checks.UserError, match="1 identities are in both train and public"):
        Split(train, pairs, some_faces([1], "t"))
    Split(train.subset([1]), pairs, some_faces([1], "t"))  # a name without images is nobody
    named = dataclasses.replace(some_faces([1], "t"), names=("T0",))  # looks like t0
    with pytest.raises(checks.UserError, match="1 identities are in both train and public"):
        Split(train, pairs, named)
    with pytest.raises(checks.UserError, match="one image size"):
        Split(train, pairs, some_faces([1], "u", size=16))


def test_shared_people_are_found_whatever_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw_faces(1, 5, 4, 1, 32)  # p0005 to p0008
    listed = from_array(np.zeros((3, 3, 32, 32), np.uint8), [0, 1, 2], ("p0009", "P0006", "ann"))
    assert shared_people(drawn, listed) == shared_people(listed, drawn) == ["P0006"]
    assert shared_people(drawn.subset([0, 2, 3]), listed) == []
    assert shared_people(drawn, draw_faces(1, 8, 4, 1, 32)) == ["p0008"]
    assert shared_people(drawn, drawn.subset([1])) == ["p0006"]
    assert shared_people(listed.subset([0]), listed.subset([1])) == []
    # Numbers that cannot meet are not written out.
    monkeypatch.setattr(Numbered, "__getitem__", None)
    monkeypatch.setattr(Numbered, "__iter__", None)
    assert shared_people(drawn, draw_faces(1, 10**9, 4, 1, 32)) == []
