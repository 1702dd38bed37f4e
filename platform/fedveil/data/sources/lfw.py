"""Labeled Faces in the Wild with its official pairs."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from fedveil import checks
from fedveil.data import benchmark, files
from fedveil.data.caps import cap_images, enough_images
from fedveil.data.faces import FaceSet
from fedveil.data.official_lists import Pairs
from fedveil.data.pairs import PairSet, disjoint_folds
from fedveil.data.sources.procedural import Procedural
from fedveil.data.split import Split

_FOLDS = benchmark.FOLDS


@dataclasses.dataclass(frozen=True)
class Lfw:
    """Labeled Faces in the Wild: trains on the people of nine folds, verifies on the official pairs of the tenth.

    View 2 (for reporting) trains on the people outside `held_fold` and evaluates its 600 pairs; a full report is the
    mean over held_fold = 0..9. View 1 (for choosing) trains on the development people and evaluates the 1000
    development test pairs. Training people are never in an evaluated pair; construction of the split checks it. The
    evaluated pairs are dealt anew to up to ten folds without a person in common, from which thresholds are chosen.

    Attributes:
        root: the usual folder (NAME/NAME_0001.jpg, pairs.txt, people.txt) or a packed .npz file.
        view: 2 or 1.
        held_fold: fold 0..9 that is evaluated (view 2).
        size: height and width in pixels, a multiple of 8.
        min_images: training people with fewer images are left out.
        max_images_per_identity: public cap on a training person's images; None means no cap.
        public: `procedural` drawn faces, or `people_fold`: people of the fold after `held_fold`, who do not train.
    """

    root: str = ""
    view: int = 2
    held_fold: int = 0
    size: int = 48
    min_images: int = 4
    max_images_per_identity: int | None = 50
    public: Literal["procedural", "people_fold"] = "procedural"

    def __post_init__(self) -> None:
        checks.multiple_of(8, size=self.size)
        checks.positive(min_images=self.min_images)
        checks.one_of(("procedural", "people_fold"), public=self.public)
        if self.max_images_per_identity is not None:
            checks.positive(max_images_per_identity=self.max_images_per_identity)
        if self.view not in (1, 2):
            raise checks.UserError(f"Expected view={self.view} to be 1 (choosing) or 2 (reporting).")
        if not 0 <= self.held_fold < _FOLDS:
            raise checks.UserError(f"Expected held_fold={self.held_fold} in 0..{_FOLDS - 1}.")
        if self.view == 1 and self.public == "people_fold":
            raise checks.UserError("public=people_fold needs view=2, whose people have folds; use public=procedural.")

    def place(self, seed: int) -> str:
        """Return where the pictures are, by its absolute name."""
        return files.absolute(self.root)

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the split; pictures are decoded when first used. `size_hint` replaces `size`.

        Raises:
            UserError: no root, lists that are damaged or do not fit, or an evaluated picture that is known to be
                unreadable. One that turns out to be is refused when it is read.
        """
        if not self.root:
            raise checks.UserError(
                f"data.root={self.root!r} says nothing: where is the benchmark? Write data.root=PLACE; "
                f"{benchmark.LAYOUT}."
            )
        data = benchmark.read(self.root, self.view, size_hint or self.size)
        faces, pairs = data.faces, data.pairs
        chosen = pairs.folds == self.held_fold if self.view == 2 else np.ones(pairs.folds.size, bool)
        if not chosen.any():
            raise checks.UserError(f"data.root={self.root!r} has no pairs for view={self.view}, fold {self.held_fold}.")
        group = data.person_group
        if self.view == 2:
            faces = dataclasses.replace(faces, folds=group)
        public_fold = (self.held_fold + 1) % _FOLDS
        if self.public == "people_fold":
            fold = faces.subset((group[faces.labels] == public_fold) & faces.readable)
            public = dataclasses.replace(fold, public=True, unreadable=None)
        else:
            public = Procedural().load(seed, size_hint=faces.size[0]).public
        trains = (group != self.held_fold) & (group != benchmark.NOT_LISTED) if self.view == 2 else group == 1
        if self.public == "people_fold":
            trains &= group != public_fold
        train = enough_images(faces.subset(trains[faces.labels]), self.min_images)
        # Most people of this benchmark have one image: that is its nature, not a problem to list.
        train = cap_images(train, self.max_images_per_identity, seed)
        train = dataclasses.replace(train, public=True, skipped=faces.skipped)
        known = np.isin(faces.labels, train.identities)
        if self.public == "people_fold":
            known |= group[faces.labels] == public_fold
        strangers = dataclasses.replace(faces.subset(~known), public=True, skipped=(), notes=())
        return Split(train, _evaluation(faces, pairs, chosen), public, public_benchmark=True, strangers=strangers)


def _evaluation(faces: FaceSet, pairs: Pairs, chosen: np.typing.NDArray[np.bool_]) -> PairSet:
    """Return the chosen pairs over only the images that they use."""
    left, right = pairs.left[chosen], pairs.right[chosen]
    used = np.unique(np.concatenate([left, right]))
    few = dataclasses.replace(faces.subset(used), public=True, skipped=(), notes=())
    if not few.readable.all():
        gone = few.subset(~few.readable).records
        raise checks.UserError(
            f"{len(gone)} pictures of evaluated pairs cannot be read, the first is {gone[0]}: a benchmark is whole, "
            "copy it again."
        )
    return PairSet(
        faces=few,
        left=np.searchsorted(used, left),
        right=np.searchsorted(used, right),
        same=pairs.same[chosen],
        folds=disjoint_folds(faces.labels[left], faces.labels[right], _FOLDS),
        declared_public=True,
    )


METHOD = Lfw
