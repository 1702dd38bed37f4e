"""Labeled Faces in the Wild with its official pairs."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.configuration.marks import PLACE
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

    root: Annotated[str, PLACE] = ""
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
        faces, pairs, group = self._read(size_hint or self.size)
        public_fold = (self.held_fold + 1) % _FOLDS
        public = self._public_faces(faces, group, seed)
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
        return Split(train, self._evaluated(faces, pairs), public, public_benchmark=True, strangers=strangers)

    @property
    def evaluates_own(self) -> bool:
        """Whether verification pairs are at this source's place: the official ones are."""
        return True

    @property
    def shows_own(self) -> bool:
        """Whether the public faces are at this source's place."""
        return self.public == "people_fold"

    def evaluated(self, seed: int) -> PairSet:
        """Return the official pairs alone; no other picture is opened."""
        faces, pairs, _ = self._read(self.size)
        return self._evaluated(faces, pairs)

    def public_faces(self, seed: int) -> FaceSet:
        """Return the public faces alone; drawn ones need no place."""
        if not self.shows_own:
            return Procedural().public_faces(seed, self.size)
        faces, _, group = self._read(self.size)
        return self._public_faces(faces, group, seed)

    def _read(self, size: int) -> tuple[FaceSet, Pairs, NDArray[np.int64]]:
        """Return all faces, the pairs of the view, and each person's group; no picture is decoded."""
        if not self.root:
            raise checks.UserError(
                f"data.root={self.root!r} says nothing: where is the benchmark? Write data.root=PLACE; "
                f"{benchmark.LAYOUT}."
            )
        data = benchmark.read(self.root, self.view, size)
        faces = dataclasses.replace(data.faces, folds=data.person_group) if self.view == 2 else data.faces
        return faces, data.pairs, data.person_group

    def _public_faces(self, faces: FaceSet, group: NDArray[np.int64], seed: int) -> FaceSet:
        if not self.shows_own:
            return Procedural().public_faces(seed, faces.size[0])
        fold = faces.subset((group[faces.labels] == (self.held_fold + 1) % _FOLDS) & faces.readable)
        return dataclasses.replace(fold, public=True, unreadable=None)

    def _evaluated(self, faces: FaceSet, pairs: Pairs) -> PairSet:
        chosen = pairs.folds == self.held_fold if self.view == 2 else np.ones(pairs.folds.size, bool)
        if not chosen.any():
            raise checks.UserError(f"data.root={self.root!r} has no pairs for view={self.view}, fold {self.held_fold}.")
        return _evaluation(faces, pairs, chosen)


def _evaluation(faces: FaceSet, pairs: Pairs, chosen: NDArray[np.bool_]) -> PairSet:
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
