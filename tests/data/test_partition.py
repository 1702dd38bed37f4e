from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil import checks
from fedveil.configuration.schema import Partition
from fedveil.data.faces import FaceSet, from_array
from fedveil.data.partition import client_ids, partition, zipf_sizes


def some_faces(counts: list[int]) -> FaceSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    keys = [f"{label}-{i}" for i, label in enumerate(labels)]
    return from_array(
        np.zeros((labels.size, 3, 8, 8), np.uint8), labels, [f"n{i}" for i in range(len(counts))], keys=keys
    )


def deal(faces: FaceSet, clients: int, choice: Partition, seed: int = 1) -> dict[str, set[str]]:
    return {name: set(faces.subset(index).keys) for name, index in partition(faces, clients, seed, choice).items()}


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=25),
    data=st.data(),
    kind=st.sampled_from(["equal", "long_tailed"]),
    people=st.none() | st.integers(1, 4),
    images=st.integers(1, 6),
)
def test_people_are_disjoint_capped_and_nobody_is_empty(
    counts: list[int], data: st.DataObject, kind: str, people: int | None, images: int
) -> None:
    faces = some_faces(counts)
    clients = data.draw(st.integers(1, len(counts)))
    choice = Partition(kind=kind, max_identities=people, max_images_per_identity=images)  # type: ignore[arg-type]
    dealt = partition(faces, clients, 3, choice)
    assert tuple(dealt) == client_ids(clients)
    seen: set[int] = set()
    for index in dealt.values():
        labels, numbers = np.unique(faces.labels[index], return_counts=True)
        assert index.size
        assert (np.diff(index) > 0).all()
        assert seen.isdisjoint(labels.tolist())
        seen |= set(labels.tolist())
        np.testing.assert_array_equal(numbers, np.minimum(np.array(counts)[labels], images))
        assert people is None or labels.size <= people
    if people is None:
        assert seen == set(range(len(counts)))


@pytest.mark.parametrize("kind", ["equal", "long_tailed"])
def test_the_order_of_images_does_not_matter_but_the_seed_does(kind: str) -> None:
    faces = some_faces([4, 2, 5, 1, 3, 3])
    shuffled = faces.subset(np.random.default_rng(0).permutation(len(faces)))
    choice = Partition(kind=kind, max_images_per_identity=2)  # type: ignore[arg-type]
    assert deal(faces, 3, choice) == deal(shuffled, 3, choice)
    assert deal(faces, 3, choice) != deal(faces, 3, choice, seed=2)


def test_equal_counts_differ_by_at_most_one() -> None:
    faces = some_faces([2] * 23)
    numbers = [len(set(faces.labels[i])) for i in partition(faces, 5, 1, Partition()).values()]
    assert sorted(numbers) == [4, 4, 5, 5, 5]


@given(people=st.integers(1, 300), clients=st.integers(1, 300), exponent=st.floats(0, 4))
def test_zipf_sizes_sum_and_follow_the_law(people: int, clients: int, exponent: float) -> None:
    clients = min(clients, people)
    sizes = zipf_sizes(people, clients, exponent)
    assert sizes.sum() == people
    assert sizes.min() >= 1
    assert (np.diff(sizes) <= 0).all()
    weights = [(j + 1.0) ** -exponent for j in range(clients)]
    ideal = [1 + (people - clients) * w / sum(weights) for w in weights]
    assert max(abs(s - i) for s, i in zip(sizes, ideal, strict=True)) <= 1


def test_more_clients_than_people_is_refused_with_the_remedy() -> None:
    with pytest.raises(checks.UserError, match=r"train.clients=3 but only 2 people.*at most 2 clients"):
        partition(some_faces([5, 5]), 3, 1, Partition())
    with pytest.raises(checks.UserError, match=r"kind='equals'.*Did you mean 'equal'"):
        partition(some_faces([5]), 1, 1, Partition(kind="equals"))  # type: ignore[arg-type]
