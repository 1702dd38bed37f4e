from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import faces as module
from fedveil.data.faces import CachedStore, FaceSet, Problem, cap_images, from_array, images_per_identity


def some_faces(labels: list[int], people: int = 4) -> FaceSet:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 3, 8, 8), np.uint8)
    return from_array(images, labels, [f"n{i}" for i in range(people)])


def test_subset_of_subset_shares_pixels_keys_and_global_labels() -> None:
    faces = some_faces([0, 1, 1, 3])
    twice = faces.subset([3, 2, 1]).subset(np.array([True, False, True]))
    assert twice.labels.tolist() == [3, 1]
    assert twice.keys == (faces.keys[3], faces.keys[1])
    np.testing.assert_array_equal(twice.images(), faces.images([3, 1]))
    assert twice.present_names == ("n1", "n3")
    assert twice.names == faces.names
    assert len(faces.subset([])) == 0


def test_images_are_copies() -> None:
    faces = some_faces([0, 1])
    before = faces.images().copy()
    faces.images()[:] = 0
    np.testing.assert_array_equal(faces.images(), before)


@pytest.mark.parametrize("limit", [10**9, 100])
def test_cached_store_makes_each_image_once_and_nothing_when_too_large(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_CACHE_BYTES", limit)
    made: list[int] = []

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        made.extend(index.tolist())
        return np.broadcast_to(index[:, None, None, None], (index.size, 3, 8, 8)).astype(np.uint8)

    store = CachedStore(5, (8, 8), make, str)
    for index in ([3, 1, 3], [1, 4]):
        assert store.read(np.array(index))[:, 0, 0, 0].tolist() == index
    assert made == ([1, 3, 4] if limit > 100 else [3, 1, 3, 1, 4])


def test_labels_out_of_range_and_wrong_images_are_refused() -> None:
    with pytest.raises(checks.UserError, match=r"labels in 0\.\.3"):
        some_faces([0, 4])
    with pytest.raises(checks.UserError, match="uint8"):
        from_array(np.zeros((1, 3, 8, 8)), [0], ["a"])  # type: ignore[arg-type]


def test_cap_keeps_the_same_images_whatever_their_order() -> None:
    faces = some_faces([0] * 7 + [1] * 2 + [2] * 4)
    shuffled = faces.subset(np.random.default_rng(1).permutation(len(faces)))
    capped = cap_images(faces, 3, seed=5)
    assert images_per_identity(capped).tolist() == [3, 2, 3, 0]
    assert set(capped.keys) == set(cap_images(shuffled, 3, seed=5).keys)
    assert set(capped.keys) != set(cap_images(faces, 3, seed=6).keys)
    assert cap_images(faces, None, seed=5) is faces


def test_problem_reads_as_one_line() -> None:
    assert str(Problem("a.jpg", "truncated")) == "a.jpg: truncated"
