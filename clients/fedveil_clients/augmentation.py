"""How a client's images are varied from visit to visit: public coins that depend on seed, client and step alone.

A round that is run again, on any engine, therefore sees the same variants. Of an image whose one noisy copy is kept,
only the copy is varied: what `mirrored` says is applied to what was released, never to the picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.configuration.recipe import Augment


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The variants of one client's images.

    Attributes:
        settings: what is varied.
        seed: the run's public seed.
        where: whose images they are; coins of two places differ.
    """

    settings: Augment
    seed: int
    where: str

    def mirrored(self, step: int, count: int) -> NDArray[np.bool_]:
        """Return (count,) which images of a step's batch are mirrored left to right: each with probability 1/2."""
        if not self.settings.flip:
            return np.zeros(count, bool)
        return randomness.public_rng(self.seed, "flip", self.where, step).random(count) < 0.5


def flipped(images: NDArray[np.uint8], which: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return images (B, 3, H, W) with those that `which` (B,) names mirrored left to right.

    >>> flipped(np.array([[[[1, 2]]]], np.uint8), np.array([True])).tolist()
    [[[[2, 1]]]]
    """
    return np.where(which[:, None, None, None], images[..., ::-1], images) if which.any() else images
