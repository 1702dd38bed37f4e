"""What a source hands over: people to train on, pairs to evaluate on, public faces to learn budgets from."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from fedveil import checks
from fedveil.data.faces import FaceSet
from fedveil.data.names import key
from fedveil.data.numbered import Numbered
from fedveil.data.pairs import PairSet


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Three sets without a person in common, and strangers; construction refuses an overlap.

    Attributes:
        train: the federation's people, to be partitioned over clients.
        evaluation: verification pairs.
        public: public or drawn faces from which budgets, radii and the like may be learnt at no privacy cost.
        public_benchmark: the training people themselves are public (procedural faces, LFW), so results may be shown.
        strangers: people of the same kind, declared public, of whom the system learns nothing: attackers and their
            victims are taken from them. Evaluated people may be among them. None: the source has none.
    """

    train: FaceSet
    evaluation: PairSet
    public: FaceSet
    public_benchmark: bool = False
    strangers: FaceSet | None = None

    def __post_init__(self) -> None:
        parts = {"train": self.train, "evaluation": self.evaluation.faces, "public": self.public}
        checked = [*itertools.combinations(parts.items(), 2)]
        if self.strangers is not None:  # the split's rule holds for them too, but for evaluated people
            checked += [(("strangers", self.strangers), (name, parts[name])) for name in ("train", "public")]
        for one, other in checked:
            apart(one, other)


def apart(one: tuple[str, FaceSet], other: tuple[str, FaceSet]) -> None:
    """Refuse two named sets with a person in common, or of two sizes.

    Raises:
        fedveil.checks.UserError: naming the sets and the people.
    """
    (a, first), (b, second) = one, other
    shared = shared_people(first, second)
    if shared:
        raise checks.UserError(
            f"{len(shared)} identities are in both {a} and {b}, for example {shared[:3]}; "
            "every person may be in one of train, evaluation and public only."
        )
    if first.size != second.size:
        raise checks.UserError(f"Expected one image size, got {a}={first.size} and {b}={second.size}.")


def shared_people(first: FaceSet, second: FaceSet) -> list[str]:
    """Return the sorted names of people with an image in both sets, equal-looking names counted as equal.

    Names that numbers make are compared by their numbers: of a million people, none is written out.
    """
    if first.names is second.names or first.names == second.names:
        return sorted(first.names[i] for i in np.intersect1d(first.identities, second.identities))
    if isinstance(first.names, Numbered) and isinstance(second.names, Numbered):
        if first.names.prefix != second.names.prefix or not _overlap(first.names.numbers, second.names.numbers):
            return []
    elif isinstance(first.names, Numbered):
        first, second = second, first
    own = {key(name): name for name in first.present_names}
    if isinstance(second.names, Numbered):
        places = {second.names.find(equal): name for equal, name in own.items()}
        present = set(np.intersect1d(second.identities, [i for i in places if i is not None]).tolist())
        return sorted(name for place, name in places.items() if place in present)
    return sorted(own[equal] for equal in own.keys() & set(map(key, second.present_names)))


def _overlap(one: range, other: range) -> bool:
    """Return whether two ranges of ascending numbers may have one in common."""
    return bool(one) and bool(other) and one[0] <= other[-1] and other[0] <= one[-1]
