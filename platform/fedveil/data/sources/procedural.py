"""Drawn faces of imaginary people: any number of them, nobody's privacy."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import drawing, people
from fedveil.data.faces import FaceSet, whole_numbers
from fedveil.data.numbered import Numbered
from fedveil.data.pairs import PairSet, balanced_pairs
from fedveil.data.split import Split
from fedveil.data.stores import CachedStore
from fedveil.randomness import public_rng

_CHUNK_PIXELS = 2**16  # pixels drawn at once, so that a layer's fields stay in the processor's cache
_PUBLIC_START, _EVALUATION_START, _STRANGERS_START = 10**9, 2 * 10**9, 3 * 10**9  # the parts' people never meet
_STRANGERS, _STRANGERS_IMAGES = 1200, 8
_MAX_IMAGES = 10**8  # of one part: their labels alone take more than a gigabyte


def draw_faces(
    seed: int, first: int, identities: int, images_per_identity: int, size: int, difficulty: float = 1.0
) -> FaceSet:
    """Return `identities` imaginary people numbered from `first`, drawn on demand, deterministic in all arguments.

    Changing the number of identities or images changes no other picture. A million people take no more memory than
    their numbers.
    """
    chunk = max(1, _CHUNK_PIXELS // size**2)

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        drawn = []
        for start in range(0, index.size, chunk):
            who, which = np.divmod(index[start : start + chunk], images_per_identity)
            drawn.append(drawing.draw(people.parameters(seed, who + first, which, difficulty), size))
        return np.concatenate(drawn)

    def key(index: int) -> str:
        who, which = divmod(index, images_per_identity)
        return f"procedural-1:{seed}:{first + who}:{which}:{size}:{difficulty!r}"

    def record(index: int) -> str:
        who, which = divmod(index, images_per_identity)
        return f"{names[who]}/{which}"

    count, kind = identities * images_per_identity, whole_numbers(identities * images_per_identity)
    names = Numbered("p", range(first, first + identities))
    return FaceSet(
        # A drawn picture is a function of its place, so its key serves as its rank, too.
        store=CachedStore(count, (size, size), make, key, record, rank=key),
        index=np.arange(count, dtype=kind),
        labels=np.repeat(np.arange(identities, dtype=kind), images_per_identity),
        names=names,
        size=(size, size),
        synthetic=True,
        public=True,
    )


@dataclasses.dataclass(frozen=True)
class Procedural:
    """Drawn faces of imaginary people: any number, no download, nobody's privacy.

    A person is geometry (proportions, hairline, moles); pose, light, expression, glasses, hats, beards, age and every
    colour change from picture to picture, so colour says nothing about who it is.

    Attributes:
        identities: people to train on.
        images_per_identity: pictures of each.
        max_images_per_identity: public cap on pictures of one person; None means no cap.
        size: height and width in pixels, a multiple of 8 in 32..112.
        evaluation_identities: other people, for verification pairs.
        evaluation_images: pictures of each of them.
        public_identities: yet other people, from which budgets may be learnt.
        public_images: pictures of each of them.
        pairs: verification pairs, half of them of one person.
        difficulty: scale of everything that changes except colours; 0 is a passport photograph, 1 the default.
    """

    identities: int = 200
    images_per_identity: int = 12
    max_images_per_identity: int | None = None
    size: int = 32
    evaluation_identities: int = 100
    evaluation_images: int = 8
    public_identities: int = 60
    public_images: int = 8
    pairs: int = 2000
    difficulty: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(
            identities=self.identities,
            images_per_identity=self.images_per_identity,
            evaluation_identities=self.evaluation_identities,
            evaluation_images=self.evaluation_images,
            public_identities=self.public_identities,
            public_images=self.public_images,
            pairs=self.pairs,
        )
        if self.max_images_per_identity is not None:
            checks.positive(max_images_per_identity=self.max_images_per_identity)
        for who, pictures, count in (
            ("identities", "images_per_identity", self.identities * self._used_images),
            ("evaluation_identities", "evaluation_images", self.evaluation_identities * self.evaluation_images),
            ("public_identities", "public_images", self.public_identities * self.public_images),
        ):
            if count > _MAX_IMAGES:
                raise checks.UserError(
                    f"Expected {who} * {pictures} of at most {_MAX_IMAGES:,}, got {count:,}; lower one of them."
                )
        checks.multiple_of(8, size=self.size)
        if not 32 <= self.size <= 112:
            raise checks.UserError(f"Expected size={self.size} in 32..112.")
        checks.non_negative(difficulty=self.difficulty)
        if self.difficulty > 2:
            raise checks.UserError(f"Expected difficulty={self.difficulty} <= 2; beyond it faces leave the picture.")

    @property
    def evaluates_own(self) -> bool:
        """Whether verification pairs are of people at a place of some machine: these are drawn."""
        return False

    @property
    def shows_own(self) -> bool:
        """Whether the public faces are at a place of some machine: these are drawn."""
        return False

    @property
    def _used_images(self) -> int:
        return min(self.images_per_identity, self.max_images_per_identity or self.images_per_identity)

    def place(self, seed: int) -> str:
        """Return what tells these pictures from others of equal names, whatever their size and number."""
        return f"seed {seed}, difficulty {self.difficulty!r}"

    def whole(self, seed: int) -> FaceSet:
        """Return the people to train on; nothing is drawn yet."""
        return draw_faces(seed, 0, self.identities, self._used_images, self.size, self.difficulty)

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the three disjoint sets of people; nothing is drawn yet. `size_hint` replaces `size`."""
        size = size_hint or self.size
        return Split(
            train=draw_faces(seed, 0, self.identities, self._used_images, size, self.difficulty),
            evaluation=self.evaluated(seed, size),
            public=self.public_faces(seed, size),
            public_benchmark=True,
            strangers=draw_faces(seed, _STRANGERS_START, _STRANGERS, _STRANGERS_IMAGES, size, self.difficulty),
        )

    def evaluated(self, seed: int, size_hint: int | None = None) -> PairSet:
        """Return the verification pairs alone."""
        people, pictures = self.evaluation_identities, self.evaluation_images
        drawn = draw_faces(seed, _EVALUATION_START, people, pictures, size_hint or self.size, self.difficulty)
        return balanced_pairs(drawn, self.pairs, public_rng(seed, "pairs"), declared_public=True)

    def public_faces(self, seed: int, size_hint: int | None = None) -> FaceSet:
        """Return the public faces alone."""
        people, pictures = self.public_identities, self.public_images
        return draw_faces(seed, _PUBLIC_START, people, pictures, size_hint or self.size, self.difficulty)


METHOD = Procedural
