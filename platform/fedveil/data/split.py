"""What a source hands over: people to train on, pairs to evaluate on, public faces to learn budgets from."""

from __future__ import annotations

import dataclasses
import itertools

from fedveil import checks
from fedveil.data.faces import FaceSet
from fedveil.data.pairs import PairSet


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Three sets without a person in common; construction refuses an overlap.

    Attributes:
        train: the federation's people, to be partitioned over clients.
        evaluation: verification pairs.
        public: public or drawn faces from which budgets, radii and the like may be learnt at no privacy cost.
        public_benchmark: the training people themselves are public (procedural faces, LFW), so results may be shown.
    """

    train: FaceSet
    evaluation: PairSet
    public: FaceSet
    public_benchmark: bool = False

    def __post_init__(self) -> None:
        parts = {"train": self.train, "evaluation": self.evaluation.faces, "public": self.public}
        for (a, first), (b, second) in itertools.combinations(parts.items(), 2):
            shared = sorted(set(first.present_names) & set(second.present_names))
            if shared:
                raise checks.UserError(
                    f"{len(shared)} identities are in both {a} and {b}, for example {shared[:3]}; "
                    "every person may be in one of train, evaluation and public only."
                )
            if first.size != second.size:
                raise checks.UserError(f"Expected one image size, got {a}={first.size} and {b}={second.size}.")
