"""Attributes say what they are named after, on pictures that differ in it alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from fedveil.data import people
from fedveil.data.sources.procedural import draw_faces
from fedveil.generators._attributes import NAMES, Attributes


@pytest.fixture(scope="module")
def learnt() -> Attributes:
    found = Attributes()
    found.fit(faces(300))
    return found


def faces(count: int, first: int = 5000) -> torch.Tensor:
    return torch.from_numpy(draw_faces(2, first, count, 1, 32).images()).float().sub(127.5).div(127.5)


def of(learnt: Attributes, name: str, pixels: torch.Tensor) -> torch.Tensor:
    return learnt.measured(pixels)[:, NAMES.index(name)]


def test_usual_faces_have_mean_zero_and_unit_scale_and_their_correlations(learnt: Attributes) -> None:
    found = learnt(faces(300))
    torch.testing.assert_close(found.mean(0), torch.zeros(len(NAMES)), atol=0.05, rtol=0)
    torch.testing.assert_close(found.std(0), torch.ones(len(NAMES)), atol=0.1, rtol=0)
    square = learnt.factor @ learnt.factor.T
    torch.testing.assert_close(square, found.T @ found / len(found), atol=1e-3, rtol=0)
    assert float(found.abs().max()) <= 3


def test_a_pose_that_is_known_is_found_on_strangers(learnt: Attributes) -> None:
    known = people.parameters(2, np.arange(6000, 6200), np.zeros(200, int), 1.0)
    pixels = faces(200, 6000)
    for name, least in (("yaw", 0.5), ("pitch", 0.2)):
        assert np.corrcoef(of(learnt, name, pixels).numpy(), known[f"sin_{name}"])[0, 1] > least


def test_light_contrast_and_sharpness_are_those_of_the_picture(learnt: Attributes) -> None:
    pixels = faces(20) * 0.5
    torch.testing.assert_close(of(learnt, "light", pixels + 0.2), of(learnt, "light", pixels) + 0.2)
    torch.testing.assert_close(of(learnt, "contrast", pixels * 0.5), of(learnt, "contrast", pixels) * 0.5)
    torch.testing.assert_close(of(learnt, "light_x", pixels.flip(3)), -of(learnt, "light_x", pixels), atol=1e-4, rtol=0)
    slope = torch.linspace(-0.3, 0.3, 32)[:, None].expand(32, 32)
    assert bool((of(learnt, "light_y", pixels + slope) > of(learnt, "light_y", pixels)).all())
    blurred = functional.avg_pool2d(pixels, 3, 1, 1)
    assert bool((of(learnt, "sharpness", blurred) < of(learnt, "sharpness", pixels)).all())


def test_black_pictures_have_finite_attributes(learnt: Attributes) -> None:
    assert bool(torch.isfinite(learnt(torch.zeros(2, 3, 32, 32))).all())


def test_red_green_and_blue_are_told_apart(learnt: Attributes) -> None:
    shares = []
    for colour in range(3):
        pixels = torch.zeros(1, 3, 32, 32)
        pixels[:, colour] = 1.0
        shares.append(float(of(learnt, "light", pixels)))
    assert shares == pytest.approx([0.299, 0.587, 0.114], abs=1e-5)
