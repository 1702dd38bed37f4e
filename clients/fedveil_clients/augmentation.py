"""How a client's images are varied from visit to visit: public coins that depend on seed, client and step alone.

A round that is run again, on any engine, therefore sees the same variants. Of an image whose one noisy copy is kept,
only the copy is varied: what `mirrored` says is applied to what was released, never to the picture, and crops and
colours are refused (`federation.recipe`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.configuration.recipe import Augment
from fedveil_clients import distortion


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

    @property
    def distorts(self) -> bool:
        """Whether pictures are cropped or recoloured, so that no visit of an image shows what another one showed."""
        return self.settings.distorts

    def distorted(self, images: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
        """Return a step's clean pictures (B, 3, H, W), each with a crop and colours of its own."""
        crop, jitter, shape = self.settings.crop, self.settings.jitter, (len(images), 3)
        if crop:
            drawn = randomness.public_rng(self.seed, "crop", self.where, step).random(shape)
            side = 1.0 - crop * drawn[:, :1]
            images = distortion.cropped(images, np.concatenate([side, (1.0 - side) * drawn[:, 1:]], 1))
        if jitter:
            drawn = randomness.public_rng(self.seed, "jitter", self.where, step).random(shape)
            images = distortion.jittered(images, 1.0 + jitter * (2.0 * drawn - 1.0))
        return images


def flipped(images: NDArray[np.uint8], which: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return images (B, 3, H, W) with those that `which` (B,) names mirrored left to right.

    >>> flipped(np.array([[[[1, 2]]]], np.uint8), np.array([True])).tolist()
    [[[[2, 1]]]]
    """
    return np.where(which[:, None, None, None], images[..., ::-1], images) if which.any() else images
