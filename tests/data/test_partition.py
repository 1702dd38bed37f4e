from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil import checks
from fedveil.configuration.schema import Partition
from fedveil.data.faces import FaceSet, from_array
from fedveil.data.numbered import Numbered
from fedveil.data.partition import Registry, deal, zipf_sizes
from fedveil.data.sources.procedural import Procedural
from fedveil.randomness import derive_seed


def some_faces(counts: list[int]) -> FaceSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    keys = [f"{label}-{i}" for i, label in enumerate(labels)]
    return from_array(
        np.zeros((labels.size, 3, 8, 8), np.uint8), labels, [f"n{i}" for i in range(len(counts))], keys=keys
    )


def keys_of(faces: FaceSet, clients: int, choice: Partition, seed: int = 1) -> dict[str, set[str]]:
    return {name: set(faces.subset(index).keys) for name, index in deal(faces, clients, seed, choice).items()}


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
    dealt = deal(faces, clients, 3, choice)
    assert tuple(dealt) == tuple(Registry(clients))
    seen: set[int] = set()
    for _, index in dealt.items():
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
    assert keys_of(faces, 3, choice) == keys_of(shuffled, 3, choice)
    assert keys_of(faces, 3, choice) != keys_of(faces, 3, choice, seed=2)


def naive(faces: FaceSet, clients: int, seed: int, choice: Partition) -> dict[str, list[int]]:
    """The rule, person by person."""
    people = sorted(set(faces.labels.tolist()), key=lambda person: derive_seed(seed, "deal", faces.names[person]))
    if choice.kind == "equal":
        dealt = {client: people[client::clients] for client in range(clients)}
    else:
        ends = np.cumsum(zipf_sizes(len(people), clients, choice.exponent)).tolist()
        dealt = {client: people[([0, *ends])[client] : ends[client]] for client in range(clients)}
    found = {}
    for client, own in dealt.items():
        mine = []
        for person in own[: choice.max_identities]:
            images = [i for i, label in enumerate(faces.labels.tolist()) if label == person]
            images.sort(key=lambda i: derive_seed(seed, "cap", faces.records[i]))
            mine += images[: choice.max_images_per_identity]
        found[f"c{client + 1:04d}"] = sorted(i for i in mine if faces.readable[i])
    return found


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=20).filter(any),
    data=st.data(),
    kind=st.sampled_from(["equal", "long_tailed"]),
    people=st.none() | st.integers(1, 3),
    images=st.integers(1, 5),
    seed=st.integers(0, 5),
)
def test_the_deal_is_the_rule_for_every_client(
    counts: list[int], data: st.DataObject, kind: str, people: int | None, images: int, seed: int
) -> None:
    faces = some_faces(counts)
    order = np.random.default_rng(seed).permutation(len(faces)) if seed % 2 else np.arange(len(faces))
    broken = np.random.default_rng(seed).random(len(faces)) < 0.2 if seed % 3 else None
    faces = dataclasses.replace(faces, unreadable=broken).subset(order)
    clients = data.draw(st.integers(1, sum(count > 0 for count in counts)))
    choice = Partition(kind=kind, max_identities=people, max_images_per_identity=images)  # type: ignore[arg-type]
    shares = deal(faces, clients, seed, choice)
    assert {name: share.tolist() for name, share in shares.items()} == naive(faces, clients, seed, choice)
    assert all(share.dtype == np.int64 for _, share in shares.items())
    assert list(shares) == list(Registry(clients))
    assert len(shares) == clients


def test_a_share_is_found_alone_and_an_unknown_client_named() -> None:
    shares = deal(some_faces([2] * 12), 5, 1, Partition())
    assert shares["c0003"].tolist() == dict(shares.items())["c0003"].tolist()
    assert "c0005" in shares
    assert "c0006" not in shares
    with pytest.raises(checks.UserError, match="Client 'c0006' is not in the registry of 5 clients, c0001 to c0005"):
        shares["c0006"]


def test_the_registry_is_the_list_of_ids() -> None:
    for clients in (1, 3, 12_000):
        registry = Registry(clients)
        assert tuple(registry) == tuple(f"c{i:04d}" for i in range(1, clients + 1))
        assert registry.index(registry[-1]) == clients - 1
        assert registry == Registry(clients) != Registry(clients + 1)
        assert hash(registry) == hash(Registry(clients))
        assert list(registry[:2]) == [f"c{i:04d}" for i in range(1, clients + 1)][:2]
    assert repr(pickle.loads(pickle.dumps(Registry(7)))) == "Registry(7)"  # noqa: S301
    for name in ("c1", "c00001", "c0000", "c0004", "C0001", "", None, "c" + "9" * 9999):
        assert name not in Registry(3)
        with pytest.raises(checks.UserError, match="is not in the registry of 3 clients, c0001 to c0003"):
            Registry(3).index(name)
    with pytest.raises(IndexError, match=r"place in -3\.\.2, got 3"):
        Registry(3)[3]
    for wrong in (0, -1, True, 2.5):
        with pytest.raises(checks.UserError, match=f"clients={wrong}"):
            Registry(wrong)  # type: ignore[arg-type]


def test_a_million_people_are_dealt_without_their_names_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at of a large registry: each name once, to be hashed; a share reads its own people alone."""
    split = Procedural(identities=4000, images_per_identity=2, pairs=20).load(1)
    assert isinstance(split.train.names, Numbered)
    made: list[int] = []
    given = Numbered.__getitem__
    monkeypatch.setattr(Numbered, "__getitem__", lambda self, place: made.append(place) or given(self, place))
    shares = deal(split.train, 2000, 1, Partition())
    own = split.train.subset(shares["c1234"])
    assert len(own.present_names) == 2
    assert len(made) < 20
    whole = sum(value.nbytes for value in vars(shares).values() if isinstance(value, np.ndarray))
    assert whole < 40 * 4000  # bytes


def test_equal_counts_differ_by_at_most_one() -> None:
    faces = some_faces([2] * 23)
    numbers = [len(set(faces.labels[i])) for _, i in deal(faces, 5, 1, Partition()).items()]
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
        deal(some_faces([5, 5]), 3, 1, Partition())
    with pytest.raises(checks.UserError, match=r"kind='equals'.*Did you mean 'equal'"):
        deal(some_faces([5]), 1, 1, Partition(kind="equals"))  # type: ignore[arg-type]
