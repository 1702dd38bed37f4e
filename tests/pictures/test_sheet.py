"""Sheets of synthetic faces; one with training faces is drawn only where these may be shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data.faces import from_array
from fedveil.pictures import sheet


def flat(colour: tuple[int, int, int], count: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8).reshape(3, 1, 1), (count, 3, 8, 8)).copy()


def test_a_person_is_a_row(tmp_path: Path) -> None:
    images = np.concatenate([flat((255, 0, 0), 4), flat((0, 0, 255), 2)])
    path = sheet.people(tmp_path / "people.png", images, np.array([3, 3, 3, 3, 5, 5]))
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red, blue = (np.argwhere((pixels == colour).all(-1)) for colour in ([255, 0, 0], [0, 0, 255]))
    assert red[:, 0].max() < blue[:, 0].min()
    assert len(red) == pytest.approx(2 * len(blue), rel=0.05)


def test_of_many_people_some_are_drawn(tmp_path: Path) -> None:
    images, labels = flat((9, 9, 9), 60), np.repeat(np.arange(30), 2)
    small, large = (sheet.people(tmp_path / f"{most}.png", images, labels, most=most) for most in (3, 9))
    with Image.open(large) as image:
        first = np.argwhere((np.asarray(image.convert("L")) == 9).any(1))[0, 0]
        header = np.asarray(image.convert("L"))[:first]
    assert (header[: first // 2] < 120).any()  # it stands above the faces, however many there are
    assert (header[-2:] > 250).all()
    with Image.open(small) as one, Image.open(large) as other:
        assert one.size[0] == other.size[0]
        assert one.size[1] * 2 < other.size[1]


def test_training_faces_stand_below_and_only_where_they_may_be_shown(tmp_path: Path) -> None:
    members = from_array(np.concatenate([flat((0, 0, 255), 1), flat((0, 255, 0), 1)]), [0, 1], ("a", "b"), public=True)
    pairs = [{"synthetic": i % 3, "position": i % 2, "cosine": 0.9 - i / 10} for i in range(5)]
    images = flat((255, 0, 0), 3)
    path = sheet.neighbours(tmp_path / "near.png", images, pairs, members, columns=3)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    counts = [int((pixels == colour).all(-1).sum()) for colour in ([255, 0, 0], [0, 0, 255], [0, 255, 0])]
    assert counts[0] == pytest.approx(counts[1] + counts[2], rel=0.05)
    assert counts[1] == pytest.approx(1.5 * counts[2], rel=0.05)
    private = dataclasses.replace(members, public=False)
    with pytest.raises(checks.UserError, match="drawn or declared public"):
        sheet.neighbours(tmp_path / "private.png", images, pairs, private)
    assert not (tmp_path / "private.png").exists()
    nobody = dataclasses.replace(private, synthetic=True)
    assert sheet.neighbours(tmp_path / "drawn.png", images, pairs, nobody).is_file()
