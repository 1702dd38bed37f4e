"""Alignment against another road: least squares of NumPy, and pictures whose landmarks are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedveil import checks
from fedveil.data.alignment import TEMPLATE, aligned, similarity

POINTS = st.lists(st.floats(-500, 500), min_size=10, max_size=10).map(lambda v: np.array(v).reshape(5, 2))


@given(points=POINTS.filter(lambda points: np.ptp(points, 0).max() > 1))
def test_no_similarity_brings_landmarks_nearer(points: np.ndarray) -> None:
    found = similarity(points)
    # The same unknowns (a, b, x, y) in a linear system: [x' y'] = [[a, -b], [b, a]] [x y] + [u v].
    rows = np.zeros((10, 4))
    rows[0::2, 0], rows[0::2, 1], rows[0::2, 2] = points[:, 0], -points[:, 1], 1
    rows[1::2, 0], rows[1::2, 1], rows[1::2, 3] = points[:, 1], points[:, 0], 1
    a, b, u, v = np.linalg.lstsq(rows, TEMPLATE.ravel(), rcond=None)[0]
    wanted = np.array([[a, -b, u], [b, a, v]])

    def error(matrix: np.ndarray) -> float:
        return float(((points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE) ** 2).sum())

    assert error(found) <= error(wanted) + 1e-6
    assert np.isclose(found[0, 0], found[1, 1])
    assert np.isclose(found[0, 1], -found[1, 0])


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0])
@pytest.mark.parametrize("scale", [0.7, 1.0, 3.3])
@pytest.mark.parametrize("size", [112, 64])
def test_marks_at_the_landmarks_come_to_the_template(angle: float, scale: float, size: int) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE - 56) @ turn.T + 300
    y, x = np.mgrid[:600, :600]
    radius = 3 * scale * max(1, 112 / size)
    spots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in points]
    picture = Image.fromarray(np.clip(255 * np.sum(spots, 0), 0, 255).astype(np.uint8)).convert("RGB")
    made = aligned(picture, points, size)[0].astype(float)
    goal = (TEMPLATE + 0.5) * size / 112 - 0.5
    yy, xx = np.mgrid[:size, :size]
    for gx, gy in goal:
        near = made * (np.hypot(xx - gx, yy - gy) < 5)
        centre = np.array([(near * xx).sum(), (near * yy).sum()]) / near.sum()
        assert np.abs(centre - (gx, gy)).max() < 0.25


def test_an_aligned_face_stays_as_it_is() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (112, 112, 3), np.uint8)
    moved = aligned(Image.fromarray(pixels), TEMPLATE).astype(int) - pixels.transpose(2, 0, 1)
    assert np.abs(moved).max() <= 1  # interpolation rounds down


@pytest.mark.parametrize("points", [TEMPLATE[:4], np.full((5, 2), np.nan), np.full((5, 2), 7.0), TEMPLATE.ravel()])
def test_what_is_no_face_is_refused(points: np.ndarray) -> None:
    with pytest.raises(checks.UserError, match="Expected landmarks to be"):
        similarity(points)
