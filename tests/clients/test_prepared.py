"""Rows that are computed once per image: kept within an allowance, equal whether kept or computed again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedveil.federation.federation import Federation
from fedveil_clients import features, prepared


class Source:
    """Computes row i as (i, i^2) and remembers what it was asked for."""

    def __init__(self, factor: float = 1.0) -> None:
        self.asked: list[list[int]] = []
        self.factor = factor

    def __call__(self, index: np.ndarray) -> torch.Tensor:
        self.asked.append(index.tolist())
        values = self.factor * torch.from_numpy(index).float()
        return torch.stack([values, values.square()], 1)


ROW = 8  # bytes
KEYS = [f"picture {number}" for number in range(10)]


def test_a_row_is_computed_once_and_comes_in_the_order_asked_for() -> None:
    source = Source()
    rows = prepared.Shelf(1 << 20).of(b"m", KEYS, source)
    first = rows(np.array([3, 1, 3]))
    assert first is not None
    assert first.tolist() == [[3, 9], [1, 1], [3, 9]]
    first.zero_()  # what a caller does to its copy stays with the caller
    again = rows(np.array([1, 2, 3]))
    assert again is not None
    assert again.tolist() == [[1, 1], [2, 4], [3, 9]]
    assert source.asked == [[3, 1], [2]]


def test_the_allowance_holds_for_all_sets_together_and_what_is_there_stays() -> None:
    shelf, one, two = prepared.Shelf(3 * ROW), Source(), Source(10.0)
    first, second = shelf.of(b"m", KEYS, one), shelf.of(b"m", [f"other {key}" for key in KEYS], two)
    first(np.array([0, 1]))
    got = second(np.array([0, 1]))
    assert got is not None
    assert got.tolist() == [[0, 0], [10, 100]]  # the same numbers of another set are other images
    assert shelf.held == 3 * ROW
    for _ in range(2):
        first(np.array([0, 1]))
        second(np.array([0, 1]))
    assert one.asked == [[0, 1]]
    assert two.asked == [[0, 1], [1], [1]]
    assert shelf.held == 3 * ROW


def test_one_picture_of_two_sets_is_one_row_and_another_mechanism_empties_the_shelf() -> None:
    shelf, one, two, three = prepared.Shelf(100), Source(), Source(), Source(10.0)
    before = shelf.of(b"m", KEYS, one)
    before(np.array([4]))
    shelf.of(b"m", KEYS, two)(np.array([4]))
    assert two.asked == []
    after = shelf.of(b"another", KEYS, three)(np.array([4]))
    assert after is not None
    assert after.tolist() == [[40, 1600]]
    late = before(np.array([4, 5]))  # a site of the mechanism before still has its own rows, and leaves none
    assert late is not None
    assert late.tolist() == [[4, 16], [5, 25]]
    assert shelf.held == ROW


def test_rows_without_room_are_computed_every_time_and_right() -> None:
    source = Source()
    shelf = prepared.Shelf(ROW - 1)
    rows = shelf.of(b"m", KEYS, source)
    for _ in range(2):
        got = rows(np.array([5, 4]))
        assert got is not None
        assert got.tolist() == [[5, 25], [4, 16]]
    assert source.asked == [[5, 4], [5, 4]]
    assert shelf.held == 0


def test_what_is_held_is_all_the_memory_there_is() -> None:
    """A row that is a view would keep its whole batch alive, uncounted."""
    shelf = prepared.Shelf(1 << 20)
    shelf.of(b"m", KEYS, Source())(np.arange(8))
    assert sum(row.untyped_storage().nbytes() for row in shelf._rows.values()) == shelf.held == 8 * ROW


def test_who_prepares_nothing_is_asked_once() -> None:
    asked = []
    rows = prepared.Shelf(100).of(b"m", KEYS, lambda index: asked.append(len(index)))
    assert rows(np.array([1])) is None
    assert rows(np.array([2, 3])) is None
    assert asked == [1]


@pytest.mark.parametrize("name", ["duetface", "minusface", "advface"])
def test_a_client_trains_on_equal_features_with_and_without_room(name, tmp_path, monkeypatch) -> None:
    words = [
        "data.identities=8", "data.images_per_identity=3", "data.size=32", "train.clients=2", "train.rounds=2",
        f"protection={name}", "protection.fit_steps=1", f"vault.root={tmp_path}/vault",
    ]  # fmt: skip
    federation = Federation.of(words)
    public = federation.split.public
    state = federation.protection.fit(public.images(), public.labels, 1)
    feeding = features.Feeding(federation, federation.stages[-1], state, b"mechanism")
    faces, found = federation.faces_of("c0001"), []
    for limit in (0, 1 << 20):
        monkeypatch.setattr(features, "SHELF", prepared.Shelf(limit))
        fed = feeding.empirical(faces, "c0001")
        found.append([fed(np.array(index), step) for step, index in enumerate(([0, 1, 2], [2, 0, 0], [5, 1]))])
        assert (features.SHELF.held > 0) == bool(limit)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
