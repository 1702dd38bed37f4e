"""Real people, embedded, and who of them is nearest to a synthetic picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.attacks._judges import Judge
from fedveil.data.faces import FaceSet

BATCH = 512
_COSINES = 2**24  # at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """Pictures of real people, embedded.

    Attributes:
        embeddings: (N, D) of length one.
        places: (N,) numbers of the pictures in their set.
        person: (N,) who is on them.
    """

    embeddings: NDArray[np.float64]
    places: NDArray[np.int64]
    person: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Nearest:
    """What is nearest to N synthetic pictures among pictures of P people.

    Attributes:
        cosine: (N,) the largest one.
        picture: (N,) of which picture.
        people: (P,) each person's largest cosine to any synthetic picture, in the order of their numbers.
    """

    cosine: NDArray[np.float64]
    picture: NDArray[np.int64]
    people: NDArray[np.float64]


def told(judge: Judge, images: NDArray[np.uint8], tell: Callable[[int], None]) -> NDArray[np.float64]:
    """Return the judge's embeddings of some pictures, after telling how many."""
    found = judge.embed(images)
    tell(len(images))
    return found


def embedded(faces: FaceSet, judge: Judge, tell: Callable[[int], None]) -> Search:
    """Return the pictures of a set that can be read."""
    rows, places = [], []
    for where, images, _ in faces.batches(BATCH):
        rows.append(told(judge, images, tell))
        places.append(where)
    place = np.concatenate(places)
    return Search(np.concatenate(rows), place, faces.labels[place].astype(np.int64))


def equal(first: Search, second: Search, seed: int) -> tuple[Search, Search]:
    """Return equally many people of both groups, numbered 0..P-1; number k has equally many pictures in both.

    The more pictures, the larger the largest cosine: without this the larger group would seem the nearer one. Who is
    left out is a public draw; of the others the one with the k-th most pictures is number k, and the one who has more
    of them loses some.
    """
    groups = []
    for name, group in (("members", first), ("strangers", second)):
        rng = randomness.public_rng(seed, "leakage", name)
        order = rng.permutation(len(group.person))
        order = order[np.argsort(group.person[order], kind="stable")]
        people, start, count = np.unique(group.person[order], return_index=True, return_counts=True)
        groups.append((order, rng.permutation(len(people)), start, count))
    size = min(len(shuffled) for _, shuffled, _, _ in groups)
    ranked = [(shuffled[:size], count) for _, shuffled, _, count in groups]
    chosen = [some[np.argsort(-count[some], kind="stable")] for some, count in ranked]
    least = np.minimum(*(count[some] for some, (_, count) in zip(chosen, ranked, strict=True)))
    number = np.repeat(np.arange(size), least)
    inside = np.arange(len(number)) - np.repeat(np.cumsum(least) - least, least)
    places = [
        order[np.repeat(start[some], least) + inside]
        for some, (order, _, start, _) in zip(chosen, groups, strict=True)
    ]  # fmt: skip
    one, two = (
        Search(group.embeddings[place], group.places[place], number)
        for group, place in zip((first, second), places, strict=True)
    )
    return one, two


def nearest(synthetic: NDArray[np.float64], group: Search) -> Nearest:
    """Return what is nearest to synthetic embeddings (N, D) of length one."""
    order = np.argsort(group.person, kind="stable")
    rows, starts = group.embeddings[order], np.unique(group.person[order], return_index=True)[1]
    best, where = np.empty(len(synthetic)), np.empty(len(synthetic), np.int64)
    people = np.full(len(starts), -np.inf)
    step = max(1, _COSINES // len(rows))
    for begin in range(0, len(synthetic), step):
        cosines = synthetic[begin : begin + step] @ rows.T
        some = slice(begin, begin + len(cosines))
        where[some] = cosines.argmax(axis=1)
        best[some] = cosines[np.arange(len(cosines)), where[some]]
        people = np.maximum(people, np.maximum.reduceat(cosines.max(axis=0), starts))
    return Nearest(best, order[where], people)
