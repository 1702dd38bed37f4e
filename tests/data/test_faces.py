from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import stores as module
from fedveil.data.caps import cap_images, images_per_identity
from fedveil.data.faces import FaceSet, from_array
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.stores import CachedStore, Problem, Unreadable


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

    store = CachedStore(5, (8, 8), make, str, str)
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


def test_records_are_places_and_keys_pictures() -> None:
    faces = some_faces([0, 1, 1, 3])
    assert faces.records == ("n0/position 0", "n1/position 1", "n1/position 2", "n3/position 3")
    assert faces.subset([3, 1]).records == ("n3/position 3", "n1/position 1")
    other = from_array(255 - faces.images(), faces.labels, faces.names)
    assert other.records == faces.records
    assert set(other.keys).isdisjoint(faces.keys)
    with pytest.raises(checks.UserError, match="a record to be one picture's, got 'a' twice"):
        from_array(faces.images(), faces.labels, faces.names, records=["a", "b", "a", "c"])
    with pytest.raises(checks.UserError, match="records"):
        from_array(faces.images(), faces.labels, faces.names, records=["a"])
    with pytest.raises(checks.UserError, match="labels of whole numbers"):
        from_array(faces.images(), [0.0, 1.0, 1.5, np.nan], faces.names)


def test_the_cap_does_not_look_at_pictures() -> None:
    faces = some_faces([0] * 7 + [1] * 5)
    other = from_array(255 - faces.images(), faces.labels, faces.names)
    for seed in range(5):
        assert cap_images(faces, 3, seed).records == cap_images(other, 3, seed).records


def test_unreadable_pictures_are_listed_and_never_read() -> None:
    faces = dataclasses.replace(some_faces([0, 0, 1]), unreadable=np.array([False, True, False]))
    assert images_per_identity(faces).tolist() == [2, 1, 0, 0]
    assert faces.subset([2, 1]).readable.tolist() == [True, False]
    assert faces.images([0, 2]).shape == (2, 3, 8, 8)
    for wrong in ([1], None):
        with pytest.raises(Unreadable, match="n0/position 1: cannot be read"):
            faces.images(wrong)
    kept = faces.without_unreadable()
    assert kept.records == ("n0/position 0", "n1/position 2")
    assert kept.unreadable is None
    assert some_faces([0]).without_unreadable().skipped == ()


def test_pictures_that_turn_out_unreadable_are_found_one_by_one() -> None:
    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        for i in index.tolist():
            if i in (2, 3):
                raise Unreadable(Problem(f"r{i}", "broken"), "repack it")
        return np.broadcast_to(index[:, None, None, None], (index.size, 3, 8, 8)).astype(np.uint8)

    store = CachedStore(6, (8, 8), make, str, lambda i: f"r{i}")
    faces = FaceSet(store, np.arange(6), np.zeros(6, np.int64), ("ann",), (8, 8))
    read = list(faces.batches(2))
    assert [where.tolist() for where, _, _ in read] == [[0, 1], [], [4, 5]]
    assert [images[:, 0, 0, 0].tolist() for _, images, _ in read] == [[0, 1], [], [4, 5]]
    kept = faces.without_unreadable()
    assert kept.records == ("r0", "r1", "r4", "r5")
    assert list(map(str, kept.skipped)) == ["r2: broken", "r3: broken"]


def test_empty_sets() -> None:
    empty = some_faces([0, 1]).subset([])
    assert (empty.identities.tolist(), empty.records, len(list(empty.batches()))) == ([], (), 0)
    assert empty.images().shape == (0, 3, 8, 8)
    drawn = draw_faces(1, 0, 2, 2, 32)
    assert drawn.images([]).shape == (0, 3, 32, 32)


def test_one_person_of_many_is_found_without_counting_everybody() -> None:
    drawn = draw_faces(1, 0, 5000, 2, 32)
    few = drawn.subset([9001, 4, 9000])
    assert few.identities.tolist() == [2, 4500]
    assert few.present_names == ("p0002", "p4500")
    assert drawn.identities.tolist() == list(range(5000))


def test_problem_reads_as_one_line() -> None:
    assert str(Problem("a.jpg", "truncated")) == "a.jpg: truncated"


def test_a_set_of_very_many_is_narrow_and_dealt_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedveil.configuration.schema import Partition
    from fedveil.data import faces as module
    from fedveil.data.partition import deal
    from fedveil.data.sources.procedural import draw_faces

    wide = draw_faces(3, 5, 40, 7, 32)
    monkeypatch.setattr(module, "_MANY", 100)
    monkeypatch.setattr(module, "_AT_ONCE", 33)
    narrow = draw_faces(3, 5, 40, 7, 32)
    assert narrow.index.dtype == narrow.labels.dtype == np.int32
    assert narrow.identities.tolist() == wide.identities.tolist()
    choice = Partition(kind="long_tailed", max_images_per_identity=5)
    for client, share in deal(narrow, 6, 1, choice).items():
        assert np.array_equal(share, deal(wide, 6, 1, choice)[client])
        one, other = narrow.subset(share), wide.subset(share)
        assert one.labels.dtype == one.index.dtype == np.int64
        assert (one.keys, one.labels.tolist()) == (other.keys, other.labels.tolist())
    assert np.array_equal(narrow.images([3, 200]), wide.images([3, 200]))
