"""Real people in, one split out: who trains, who is evaluated, which public faces stand beside them.

A coordinator asks for the last two alone (`evaluated`, `public_faces`), and then nobody who trains is opened.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data.caps import cap_images, enough_images, ranks
from fedveil.data.faces import FaceSet
from fedveil.data.pairs import PairSet, balanced_pairs
from fedveil.data.sources.procedural import Procedural
from fedveil.data.split import Split
from fedveil.randomness import public_rng


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """How a set of real people becomes a split: the settings that the folder and the packed source inherit.

    Attributes:
        size: height and width in pixels, a multiple of 8; the shorter side is scaled to it, the rest cropped.
        min_images: people with fewer images are left out, listed.
        max_images_per_identity: public cap on a training person's images; None means no cap.
        evaluation: `held_out`: pairs of a share of the people, who then do not train; `procedural`: drawn faces.
        declared_public_evaluation: the user's word that held-out people's pictures are public.
        evaluation_fraction: share of people held out.
        pairs: verification pairs.
    """

    size: int = 64
    min_images: int = 2
    max_images_per_identity: int | None = 50
    evaluation: Literal["held_out", "procedural"] = "held_out"
    declared_public_evaluation: bool = False
    evaluation_fraction: float = 0.2
    pairs: int = 2000

    def __post_init__(self) -> None:
        checks.multiple_of(8, size=self.size)
        checks.one_of(("held_out", "procedural"), evaluation=self.evaluation)
        checks.fraction(evaluation_fraction=self.evaluation_fraction)
        checks.positive(pairs=self.pairs, min_images=self.min_images)
        if self.max_images_per_identity is not None:
            checks.positive(max_images_per_identity=self.max_images_per_identity)

    def require_place(self, setting: str, value: str, layout: str) -> None:
        """Refuse settings that do not say where the pictures are: the first thing to say of them."""
        if not value:
            raise checks.UserError(
                f"data.{setting}={value!r} says nothing: where are the pictures? Write data.{setting}=PLACE; {layout}."
            )

    def require_declaration(self) -> None:
        """Refuse to evaluate on people nobody declared public; called before a file is touched."""
        if self.evaluation == "held_out" and not self.declared_public_evaluation:
            raise checks.UserError(
                "data.evaluation=held_out measures accuracy on pairs of real people in the open, so "
                f"data.declared_public_evaluation={self.declared_public_evaluation} refuses it. Set it to true if "
                "these people's pictures are public, or choose data.evaluation=procedural (drawn faces)."
            )

    @property
    def evaluates_own(self) -> bool:
        """Whether verification pairs are of people at this source's place; else nothing there is opened for them."""
        return self.evaluation == "held_out"

    @property
    def shows_own(self) -> bool:
        """Whether the public faces are at this source's place."""
        return False

    def whole(self, seed: int) -> FaceSet:
        """Return everybody, nobody left out or held out; pictures are not read yet. A source says how."""
        raise NotImplementedError

    def evaluated(self, seed: int) -> PairSet:
        """Return the verification pairs alone, equal to those of the split; of nobody else a picture is opened.

        There need not be anybody else. Drawn pairs need no place.

        Raises:
            UserError: evaluation that nobody declared public, no place, or people of whom no pairs can be made.
        """
        self.require_declaration()
        if not self.evaluates_own:
            return self._drawn.evaluated(seed, self.size)
        return self.held_pairs(self.whole(seed), seed)

    def public_faces(self, seed: int) -> FaceSet:
        """Return the public faces alone: drawn ones."""
        return self._drawn.public_faces(seed, self.size)

    @property
    def _drawn(self) -> Procedural:
        return Procedural(pairs=self.pairs)

    def tried(self, faces: FaceSet) -> FaceSet:
        """Return the faces with those marked that cannot be read, where this source finds out before they are used."""
        return faces

    def held_pairs(self, faces: FaceSet, seed: int) -> PairSet:
        """Return verification pairs of the share of `faces` that is held out; nobody need be left."""
        faces = enough_images(faces, self.min_images)
        return self.pairs_of(self.tried(faces.subset(self._held_out(faces, seed))), seed)

    def pairs_of(self, held: FaceSet, seed: int) -> PairSet:
        """Return verification pairs of people who are declared public."""
        return balanced_pairs(_public(held), self.pairs, public_rng(seed, "pairs"), declared_public=True)

    def _held_out(self, faces: FaceSet, seed: int) -> NDArray[np.bool_]:
        """Return (N,) which images are of people who are held out: a share of them, two at least."""
        listed = faces.identities
        names = (faces.names[i] for i in listed.tolist())
        people = listed[np.argsort(ranks(seed, "held out", names, listed.size), kind="stable")]
        return np.isin(faces.labels, people[: max(2, round(self.evaluation_fraction * len(people)))])

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Return the split; who is held out depends on the seed and the names only, not on files or what is in them."""
        self.require_declaration()
        faces = enough_images(faces, self.min_images)
        drawn = Procedural(pairs=self.pairs).load(seed, size_hint=faces.size[0])
        evaluation = drawn.evaluation
        train, strangers = faces, drawn.strangers
        if self.evaluates_own:
            out = self._held_out(faces, seed)
            if out.all():
                raise checks.UserError(
                    f"data.evaluation_fraction={self.evaluation_fraction} of {faces.identities.size} people leaves "
                    "nobody to train on; lower it, add people, or choose data.evaluation=procedural."
                )
            train = faces.subset(~out)
            strangers = _public(faces.subset(out))
            evaluation = self.pairs_of(strangers, seed)
        train = cap_images(train, self.max_images_per_identity, seed)
        return Split(train, evaluation, drawn.public, strangers=strangers)


def _public(faces: FaceSet) -> FaceSet:
    return dataclasses.replace(faces, public=True, skipped=(), notes=())
