"""Rows that are computed once per image: kept within an allowance, equal whether kept or computed again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedveil import config
from fedveil_clients import prepared, training


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


def test_a_row_is_computed_once_and_comes_in_the_order_asked_for() -> None:
    source = Source()
    rows = prepared.Shelf(1 << 20).of(source)
    first = rows(np.array([3, 1, 3]))
    assert first is not None
    assert first.tolist() == [[3, 9], [1, 1], [3, 9]]
    again = rows(np.array([1, 2, 3]))
    assert again is not None
    assert again.tolist() == [[1, 1], [2, 4], [3, 9]]
    assert source.asked == [[3, 1], [2]]


def test_the_allowance_holds_for_all_sets_together_and_the_oldest_go_first() -> None:
    shelf, one, two = prepared.Shelf(3 * ROW), Source(), Source(10.0)
    first, second = shelf.of(one), shelf.of(two)
    first(np.array([0, 1]))
    got = second(np.array([0, 1]))
    assert got is not None
    assert got.tolist() == [[0, 0], [10, 100]]  # the same numbers of another set are other images
    assert shelf.held == 3 * ROW
    first(np.array([1]))  # 0 went when the second set came
    first(np.array([0]))
    assert one.asked == [[0, 1], [0]]
    assert shelf.held == 3 * ROW


def test_rows_without_room_are_computed_every_time_and_right() -> None:
    source = Source()
    shelf = prepared.Shelf(ROW - 1)
    rows = shelf.of(source)
    for _ in range(2):
        got = rows(np.array([5, 4]))
        assert got is not None
        assert got.tolist() == [[5, 25], [4, 16]]
    assert source.asked == [[5, 4], [5, 4]]
    assert shelf.held == 0


def test_who_prepares_nothing_is_asked_once() -> None:
    asked = []
    rows = prepared.Shelf(100).of(lambda index: asked.append(len(index)))
    assert rows(np.array([1])) is None
    assert rows(np.array([2, 3])) is None
    assert asked == [1]


@pytest.mark.parametrize("name", ["duetface", "minusface", "advface"])
def test_a_client_trains_on_equal_features_with_and_without_room(name, tmp_path, monkeypatch) -> None:
    words = [
        "data.identities=8", "data.images_per_identity=3", "data.size=32", "train.clients=2", "train.rounds=2",
        f"protection={name}", "protection.fit_steps=1", f"vault.root={tmp_path}/vault",
    ]  # fmt: skip
    settings = config.load(words)
    from fedveil import federation, schedule

    split, protection = federation.split(settings), config.build(settings, "protection")
    state = protection.fit(split.public.images(), split.public.labels, 1)
    stage = schedule.stages(settings, protection)[-1]
    faces, found = federation.faces_of(settings, "c0001"), []
    for limit in (0, 1 << 20):
        monkeypatch.setattr(training, "SHELF", prepared.Shelf(limit))
        features = training._empirical(settings, protection, stage, state, faces, "c0001")
        found.append([features(np.array(index), step) for step, index in enumerate(([0, 1, 2], [2, 0, 0], [5, 1]))])
        assert (training.SHELF.held > 0) == bool(limit)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
