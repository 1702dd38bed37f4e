"""Verification pairs in identity-disjoint folds."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from fedveil import checks
from fedveil.data.faces import FaceSet

_MAX_POOL = 1000  # images of a person, or of a fold, among which pairs are listed: half a million pairs


@dataclasses.dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of images with the answer; both people of a pair are in the pair's fold, a person is in one fold only.

    Attributes:
        faces: the images that the pairs point into.
        left: (P,) index into `faces`.
        right: (P,) index into `faces`.
        same: (P,) True when both show one identity.
        folds: (P,) 0..F-1.
        declared_public: whoever configured the run says that these people's pairs may be evaluated in the open.
    """

    faces: FaceSet
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]
    declared_public: bool = False

    def __post_init__(self) -> None:
        shape = self.left.shape
        checks.same_shape(shape, right=self.right.shape, same=self.same.shape, folds=self.folds.shape)
        both = np.concatenate([self.left, self.right])
        if both.size and not 0 <= both.min() <= both.max() < len(self.faces):
            raise checks.UserError(
                f"Expected pairs to point at images 0..{len(self.faces) - 1}, got {both.min()}..{both.max()}."
            )
        labels = self.faces.labels
        wrong = np.flatnonzero((labels[self.left] == labels[self.right]) != self.same)
        if wrong.size:
            raise checks.UserError(
                f"Expected pairs to agree with the identities; {wrong.size} do not, the first is pair {wrong[0]}."
            )

    def __len__(self) -> int:
        return int(self.left.size)

    def where(self, mask: NDArray[np.bool_]) -> PairSet:
        """Return the pairs that `mask` (P,) chooses, over the same faces."""
        return dataclasses.replace(
            self, left=self.left[mask], right=self.right[mask], same=self.same[mask], folds=self.folds[mask]
        )


def balanced_pairs(
    faces: FaceSet, count: int, rng: np.random.Generator, folds: int = 10, declared_public: bool = False
) -> PairSet:
    """Return up to `count` distinct pairs, half same and half different in every fold, folds disjoint in identities.

    Fewer are returned when a fold has fewer to give. Same pairs are spread evenly over identities first. With fewer
    than 2 * folds identities there are fewer folds, so that each holds at least two people.

    Pairs are chosen by who is listed. Those of a picture that is known to be unreadable are then left out, so damage to
    one picture changes no other pair.

    Raises:
        UserError: fewer than two identities, no identity with two images, or no pair of readable ones.
    """
    checks.positive(count=count, folds=folds)
    people = rng.permutation(faces.identities)
    sizes = np.bincount(faces.labels, minlength=len(faces.names))[people]
    if people.size < 2:
        raise checks.UserError(
            f"Pairs need at least 2 identities, got {people.size}; add people to the evaluation set."
        )
    if sizes.max() < 2:
        raise checks.UserError(
            f"Same pairs need an identity with at least 2 images; all {people.size} have one. Add images per identity."
        )
    # People with two images or more are dealt first, so that every fold gets its share of them.
    people = people[np.argsort(sizes < 2, kind="stable")]
    used = min(folds, people.size // 2)
    parts = []
    for fold in range(used):
        members = np.flatnonzero(np.isin(faces.labels, people[fold::used]))
        same = _same_pairs(faces.labels, members, rng)
        different = _different_pairs(faces.labels, members, rng)
        wanted = count // 2 // used + (fold < count // 2 % used)
        taken = min(wanted, len(same), len(different))
        for pairs, answer in ((same[:taken], True), (different[:taken], False)):
            parts.append((pairs, np.full(taken, answer), np.full(taken, fold, np.int64)))
    pairs, answers, numbers = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _without_unreadable(PairSet(faces, pairs[:, 0], pairs[:, 1], answers, numbers, declared_public))


def _without_unreadable(pairs: PairSet) -> PairSet:
    """Return the pairs whose two pictures are not known to be unreadable, over the readable faces."""
    readable = pairs.faces.readable
    if readable.all():
        return pairs
    kept = pairs.where(readable[pairs.left] & readable[pairs.right])
    if not len(kept):
        raise checks.UserError("No verification pair has two readable pictures; `fedveil data inspect` lists them.")
    place = np.cumsum(readable) - 1
    faces = dataclasses.replace(pairs.faces.subset(readable), unreadable=None)
    return dataclasses.replace(kept, faces=faces, left=place[kept.left], right=place[kept.right])


def disjoint_folds(left: NDArray[np.int64], right: NDArray[np.int64], folds: int = 10) -> NDArray[np.int64]:
    """Return (P,) folds for given pairs of identities, such that no identity is in two folds.

    Pairs that share a person belong together; these clusters are dealt, largest first, to the fold with fewest pairs.
    Folds are as even as the clusters allow, and there may be fewer.

    >>> disjoint_folds(np.array([0, 1, 5, 7]), np.array([1, 2, 5, 8]), folds=2).tolist()
    [0, 0, 1, 1]
    """
    parent: dict[int, int] = {}

    def root(person: int) -> int:
        while parent.setdefault(person, person) != person:
            person = parent[person]
        return person

    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        parent[root(one)] = root(other)
    cluster = np.array([root(person) for person in left.tolist()], np.int64)
    groups, sizes = np.unique(cluster, return_counts=True)
    result = np.empty(left.size, np.int64)
    filled = np.zeros(folds, np.int64)
    for group in groups[np.argsort(-sizes, kind="stable")]:
        own = cluster == group
        fold = int(np.argmin(filled))
        result[own] = fold
        filled[fold] += own.sum()
    return result


def joined_people(pictures: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (pictures,) who is who: pairs (P,) of one person's pictures join people, everybody else is apart.

    >>> joined_people(4, np.array([0, 1]), np.array([1, 2])).tolist()
    [0, 0, 0, 1]
    """
    edges = sparse.coo_array((np.ones(left.size, bool), (left, right)), shape=(pictures, pictures))
    people: NDArray[np.int64] = csgraph.connected_components(edges, directed=False)[1].astype(np.int64)
    return people


def _same_pairs(labels: NDArray[np.int64], members: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return all pairs (P, 2) within an identity: everybody's first random pair, then everybody's second, and so on.

    Of a person with more than `_MAX_POOL` images, those among a random choice of so many.
    """
    pairs = [np.empty((0, 2), np.int64)]
    ranks = [np.empty(0, np.int64)]
    by_person = members[np.argsort(labels[members], kind="stable")]
    for own in np.split(by_person, np.flatnonzero(np.diff(labels[by_person])) + 1):
        if own.size > _MAX_POOL:
            own = np.sort(rng.permutation(own)[:_MAX_POOL])
        first, second = np.triu_indices(own.size, 1)
        order = rng.permutation(first.size)
        pairs.append(np.stack([own[first[order]], own[second[order]]], 1))
        ranks.append(np.arange(first.size))
    listed, rank = np.concatenate(pairs), np.concatenate(ranks)
    return listed[np.lexsort((rng.random(rank.size), rank))]


def _different_pairs(
    labels: NDArray[np.int64], members: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return distinct pairs (P, 2) of two identities in random order."""
    pool = np.sort(rng.permutation(members)[:_MAX_POOL])
    first, second = np.triu_indices(pool.size, 1)
    other = labels[pool[first]] != labels[pool[second]]
    listed = np.stack([pool[first[other]], pool[second[other]]], 1)
    return listed[rng.permutation(len(listed))]
