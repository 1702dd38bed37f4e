from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import drawing, people
from fedveil.data.sources.procedural import Procedural, draw_faces


def test_pictures_depend_on_seed_person_and_picture_only() -> None:
    faces = draw_faces(7, 100, 20, 4, 32)
    everything = faces.images()
    np.testing.assert_array_equal(draw_faces(7, 100, 20, 4, 32).images([33, 5]), everything[[33, 5]])
    # Another first person, another number of pictures: person 108, picture 1.
    np.testing.assert_array_equal(draw_faces(7, 108, 1, 2, 32).images([1])[0], everything[8 * 4 + 1])
    assert (draw_faces(8, 100, 1, 1, 32).images() != everything[0]).any()
    assert len({image.tobytes() for image in everything}) == len(everything)


def test_known_pixels_do_not_change_between_versions() -> None:
    image = draw_faces(1, 0, 1, 1, 32).images()[0].astype(int)
    golden = [[162, 99, 86, 73], [118, 64, 54, 47], [149, 45, 38, 33]]
    np.testing.assert_allclose(image[:, ::10, 16], golden, atol=1)  # another C library may round a sine differently


def test_identity_parameters_hold_no_colour() -> None:
    drawn = people.parameters(1, [3] * 50, range(50), 0.0)
    for name, value in drawn.items():
        if value.ndim == 2 and value.shape[1] == 3:
            assert name not in people.IDENTITY
            assert (value.std(0) > 0).all(), f"{name} is the same in every picture of a person"
        elif name in people.IDENTITY:
            assert np.ptp(value) == 0


def test_without_difficulty_only_colours_change() -> None:
    drawn = people.parameters(1, [3, 3], [0, 1], 0.0)
    for name, value in drawn.items():
        if value.ndim == 1:
            assert value[0] == value[1], name


def nearest_is_same(features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    squares = (features**2).sum(1)
    distance = squares[:, None] + squares - 2 * features @ features.T
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(1)] == labels).mean())


def best_accuracy(distance: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    return max(float(((distance < t) == same).mean()) for t in np.quantile(distance, np.linspace(0, 1, 101)))


@pytest.fixture(scope="module")
def evaluation() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    pairs = Procedural().load(1).evaluation
    pixels = pairs.faces.images().astype(float).reshape(len(pairs.faces), 3, -1)
    return pixels, pairs.faces.labels, np.stack([pairs.left, pairs.right]), pairs.same


def test_mean_colour_says_nothing_about_identity(evaluation) -> None:  # type: ignore[no-untyped-def]
    pixels, labels, (left, right), same = evaluation
    colour = pixels.mean(2)
    chance = 7 / 799
    # Three standard deviations of a binomial over 800 queries.
    assert nearest_is_same(colour, labels) < chance + 3 * (chance / 800) ** 0.5
    assert best_accuracy(np.linalg.norm(colour[left] - colour[right], axis=1), same) < 0.54


def test_pixels_alone_are_a_poor_recogniser(evaluation) -> None:  # type: ignore[no-untyped-def]
    pixels, labels, (left, right), same = evaluation
    flat = pixels.reshape(len(pixels), -1)
    assert 2 * 7 / 799 < nearest_is_same(flat, labels) < 0.25
    assert best_accuracy(np.linalg.norm(flat[left] - flat[right], axis=1), same) < 0.65


def test_geometry_carries_identity() -> None:
    """Without nuisance and with one palette for all, the nearest picture is always the same person's."""
    drawn = people.parameters(1, np.repeat(np.arange(40), 2), np.tile([0, 1], 40), 0.2)
    for name, value in drawn.items():
        if value.ndim == 2:
            drawn[name] = np.repeat(value[:1], len(value), axis=0)
    for name in ("glasses", "sunglasses", "hat", "beard"):
        drawn[name] = np.zeros_like(drawn[name])
    pixels = drawing.draw(drawn, 32).reshape(80, -1).astype(float)
    assert nearest_is_same(pixels, np.repeat(np.arange(40), 2)) > 0.9


def test_difficulty_moves_pictures_of_a_person_apart() -> None:
    def spread(difficulty: float) -> float:
        drawn = people.parameters(1, [5] * 20, range(20), difficulty)
        for name, value in drawn.items():
            if value.ndim == 2:
                drawn[name] = np.repeat(value[:1], len(value), axis=0)
        return float(drawing.draw(drawn, 32).astype(float).std(0).mean())

    assert spread(0.0) == 0
    assert spread(0.3) < spread(1.0) < spread(2.0)


@pytest.mark.parametrize("size", [32, 64, 112])
def test_sizes_show_the_same_picture(size: int) -> None:
    small = draw_faces(1, 0, 3, 1, 32).images().astype(float)
    images = draw_faces(1, 0, 3, 1, size).images().astype(float)
    assert images.shape == (3, 3, size, size)
    means = [small.mean((2, 3)), images.mean((2, 3))]
    np.testing.assert_allclose(*means, atol=3)
    assert images.std((1, 2, 3)).min() > 20


def test_drawing_is_fast_enough() -> None:
    faces = draw_faces(1, 0, 50, 8, 32)
    start = time.process_time()
    faces.images()
    assert 400 / (time.process_time() - start) > 200  # 1,900 per second on a quiet core


def test_split_counts_caps_and_size_hint() -> None:
    split = Procedural(identities=6, images_per_identity=5, max_images_per_identity=3, pairs=100).load(2, size_hint=40)
    assert len(split.train) == 18
    assert split.train.size == split.public.size == (40, 40)
    assert split.train.synthetic
    assert split.public_benchmark
    assert split.evaluation.declared_public
    assert len(split.evaluation) == 100
    assert split.train.names[1] == "p0001"
    assert split.train.keys[4] == "procedural-1:2:1:1:40:1.0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 36}, "size=36"),
        ({"size": 120}, "size=120"),
        ({"identities": 0}, "identities=0"),
        ({"difficulty": 3}, "difficulty=3"),
        ({"identities": 10**9}, "identities \\* images_per_identity of at most 100,000,000, got 12,000,000,000"),
        ({"public_images": 10**8}, "public_identities \\* public_images"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, int], message: str) -> None:
    with pytest.raises(checks.UserError, match=message):
        Procedural(**settings)
