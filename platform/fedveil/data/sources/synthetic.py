"""Synthetic faces of a generator, in one packed file that says what they were made from."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from fedveil import checks
from fedveil.configuration.marks import NO_PLACE, PLACE
from fedveil.data import files, synthetic_set
from fedveil.data.faces import FaceSet
from fedveil.data.held_out import HeldOut
from fedveil.data.pairs import PairSet
from fedveil.data.provenance import Provenance
from fedveil.data.split import Split


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Synthetic faces of a generator in one packed .npz file, which says what the generator learnt from.

    What is claimed of a run depends on that (`privacy.inherited`). Real pairs come from `evaluation.pairs`.

    Attributes:
        path: the .npz file (`fedveil.data.synthetic_set`).
        size: height and width in pixels, a multiple of 8; the shorter side is scaled to it, the rest cropped.
        min_images: people with fewer images are left out, listed.
        max_images_per_identity: public cap on a training person's images; None means no cap.
        evaluation: `procedural`: drawn faces; `held_out`: pairs of a share of the synthetic people, who do not train.
        evaluation_fraction: share of people held out.
        pairs: verification pairs.
        origin: `data.provenance.Provenance.origin` of the file, found when a run is planned; another file is refused,
            on every machine.
    """

    path: Annotated[str, PLACE] = ""
    size: int = 32
    min_images: int = 2
    max_images_per_identity: int | None = 50
    evaluation: Literal["procedural", "held_out"] = "procedural"
    evaluation_fraction: float = 0.2
    pairs: int = 2000
    origin: Annotated[str, NO_PLACE] | None = None

    def __post_init__(self) -> None:
        _ = self._rule

    @property
    def _rule(self) -> HeldOut:
        return HeldOut(
            self.size, self.min_images, self.max_images_per_identity, self.evaluation, True, self.evaluation_fraction,
            self.pairs,
        )  # fmt: skip

    def place(self, seed: int) -> str:
        """Return where the faces are, by its absolute name."""
        return files.absolute(self.path)

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the split: synthetic people train; budgets are learnt on drawn faces.

        Raises:
            fedveil.checks.UserError: a missing or damaged file, one of another origin, fewer than two people, or pairs
                of a shared set, whose faces private people may be on.
        """
        faces, made = self._read(size_hint or self.size)
        split = self._rule.split(faces, seed)
        if split.train.identities.size < 2:
            raise checks.UserError(
                f"data.path={self.path!r} leaves {split.train.identities.size} synthetic people to train on, and "
                f"telling people apart needs two: sample more, or lower data.min_images={self.min_images}."
            )
        return dataclasses.replace(split, public_benchmark=made.is_public)

    @property
    def evaluates_own(self) -> bool:
        """Whether verification pairs are of the file's people."""
        return self._rule.evaluates_own

    @property
    def shows_own(self) -> bool:
        """Whether the public faces are of the file's people: they are drawn."""
        return self._rule.shows_own

    def evaluated(self, seed: int) -> PairSet:
        """Return the verification pairs alone; drawn ones need no file."""
        if not self.evaluates_own:
            return self._rule.evaluated(seed)
        return self._rule.held_pairs(self._read(self.size)[0], seed)

    def public_faces(self, seed: int) -> FaceSet:
        """Return the public faces alone: drawn ones."""
        return self._rule.public_faces(seed)

    def _read(self, size: int) -> tuple[FaceSet, Provenance]:
        """Return the faces, and what they were made from, of the file that the run was planned with."""
        faces, made = synthetic_set.read(self.path, size)
        if self.origin is not None and made.origin != self.origin:
            raise checks.UserError(
                f"data.path={self.path!r} holds faces of another generator than this run was planned with: what is "
                "claimed of it would not hold. Name that file, or plan a new run."
            )
        if self.evaluation == "held_out" and not made.is_public:
            raise checks.UserError(
                "data.evaluation=held_out measures accuracy on pairs of these faces in the open, and private people "
                "may be on them: their generator was trained without a guarantee. Choose data.evaluation=procedural."
            )
        return faces, made


METHOD = Synthetic
