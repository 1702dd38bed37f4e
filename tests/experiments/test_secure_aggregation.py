"""The trap of chosen weights: it finds one picture in a perfect sum, and none where an image budget adds its noise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "secure_aggregation"
SMALL = (
    "study=quick", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4", "model.width=8",
    "model.embedding=16", "train.clients=3", "train.local.steps=2", "train.batch_size=6", "train.rounds=14",
)  # fmt: skip


@pytest.fixture
def trap(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import trap as loaded

    yield loaded
    del sys.modules["trap"]


def test_the_sum_of_all_owners_updates_shows_one_picture(trap, tmp_path):
    owners, start, pictures = trap.opened(list(SMALL), str(tmp_path / "plain"))
    sent = trap.trapped(start, 4, 0.5)  # what a node's checks look at
    assert {name: (value.shape, value.dtype) for name, value in sent.items()} == {
        name: (value.shape, np.float32) for name, value in start.items()
    }
    assert all(np.isfinite(value).all() for value in sent.values())
    found = trap.searched(owners, start, 4, 14)
    assert found is not None
    alike = np.sort(trap.likeness(found.picture, pictures))
    assert alike[-1] > 0.99
    assert alike[-2] < 0.95
    budget = ["privacy.image.epsilon=8", "privacy.image.sampling_rate=1"]
    private, _, _ = trap.opened([*SMALL, *budget], str(tmp_path / "private"))
    _, noise = trap.shown(trap.summed(private, found.round, trap.trapped(start, 4, found.threshold)))
    assert trap.likeness(noise, pictures).max() < 0.6


def test_pixels_find_their_places_again(trap):
    wanted = np.arange(256.0).reshape(16, 16)
    row = np.zeros((64, 4, 4))
    for channel in range(16):
        of, phase = divmod(channel, 4)
        (a, b), (c, d) = divmod(of, 2), divmod(phase, 2)
        row[channel] = wanted[a + 2 * c :: 4, b + 2 * d :: 4]
    assert np.array_equal(trap.picture(row.reshape(-1)), wanted)
