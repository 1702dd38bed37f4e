"""Which pictures stay, against loops that say it one by one."""

from __future__ import annotations

import numpy as np
import pytest

from fedveil.synthesis import _filters
from fedveil.synthesis._filters import ANOTHER_PERSON, KEPT, NOT_THE_PERSON, by_identity, by_likeness


def test_a_picture_shows_its_person_and_nobody_more() -> None:
    anchors = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    seen = np.array(
        [[0.8, 0.6, 0], [0.5, 0.1, 0.86], [0.49, 0.1, 0.86], [0.6, 0.8, 0], [0.7, 0.7, 0], [np.nan] * 3, [0, 0, 0]],
        np.float32,
    )  # fmt: skip
    found = by_identity(seen, anchors, np.zeros(7, np.int64), keep=0.5)
    assert found[:4].tolist() == [KEPT, KEPT, NOT_THE_PERSON, ANOTHER_PERSON]
    assert found[4:].tolist() == [ANOTHER_PERSON, NOT_THE_PERSON, NOT_THE_PERSON]
    assert by_identity(seen[3:4], anchors, np.ones(1, np.int64), keep=0.5).tolist() == [KEPT]


def test_a_single_person_has_no_rival() -> None:
    anchor = np.array([[1.0, 0]], np.float32)
    assert by_identity(anchor, anchor, np.zeros(1, np.int64), keep=0.5).tolist() == [KEPT]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [0.0, 30.0, 80.0])
def test_a_picture_that_is_there_already_goes(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 190, (3, 2, 3, 4, 4))
    images = np.concatenate([base, base + 20, base - 55, base], axis=1).astype(np.uint8)[:, rng.permutation(8)]
    there = rng.random((3, 8)) < 0.2
    new = ~there & (rng.random((3, 8)) < 0.7)
    expected = np.zeros((3, 8), bool)
    for person in range(3):
        kept = [images[person, i] for i in range(8) if there[person, i]]
        for i in range(8):
            if new[person, i]:
                gaps = [np.sqrt(np.mean((images[person, i].astype(float) - one) ** 2)) for one in kept]
                if all(gap >= least for gap in gaps):
                    kept.append(images[person, i])
                    expected[person, i] = True
    # An earlier place of one call wins, whichever call's pictures were there before it.
    assert np.array_equal(by_likeness(images, there, new, least), expected)
    assert _filters.DUPLICATE == 3
