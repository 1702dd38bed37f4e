"""See what a protection makes of images: original, representation, and what it shows a person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, config, federation, pictures, randomness
from fedveil.data import decode
from fedveil.data.faces import FaceSet
from fedveil.privacy import statements
from fedveil.schema import Config


def mosaic(released: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return (3, s, s), grey: the channels (C, h, w) as tiles, row by row, each stretched to its own range.

    >>> mosaic(np.zeros((5, 2, 2), np.float32)).shape
    (3, 6, 6)
    """
    channels, height, width = released.shape
    side = math.ceil(math.sqrt(channels))
    if channels == 3 and float(released.max()) > 2.0:  # pixel values, not a picture in 0..1
        return np.clip(np.round(released), 0, 255).astype(np.uint8)
    low = released.min(axis=(1, 2), keepdims=True)
    span = np.maximum(released.max(axis=(1, 2), keepdims=True) - low, 1e-6)
    tiles = np.zeros((side * side, height, width))
    tiles[:channels] = (released - low) / span
    grid = tiles.reshape(side, side, height, width).transpose(0, 2, 1, 3).reshape(side * height, side * width)
    return np.broadcast_to(np.round(255 * grid).astype(np.uint8), (3, *grid.shape)).copy()


def stages(
    protection: Any, state: Mapping[str, torch.Tensor], images: NDArray[np.uint8], seed: int
) -> dict[str, NDArray[np.uint8]]:
    """Return the rows of the picture for images (N, 3, H, W): originals, what leaves, what a person sees in it.

    The noise is drawn from the public seed: a picture is for looking at, and shows nobody's release.
    """
    keys = [randomness.test_key(seed, "picture", number) for number in range(len(images))]
    streams = [randomness.SecretStream(key) for key in keys]
    released = protection.release(torch.from_numpy(images), state, streams)
    back = protection.render(released, state, (images.shape[2], images.shape[3]))
    return {
        "original": images,
        "representation": np.stack([mosaic(one.numpy()) for one in released]),
        "what it shows": back.numpy(),
    }


def protect(settings: Config, source: Path, out: Path, count: int) -> str:
    """Write the picture of an image, or of the first `count` images of a folder, and say what was done.

    Raises:
        fedveil.checks.UserError: nothing readable at `source`; the message names the file.
    """
    checks.positive(count=count)
    split = federation.split(settings)
    size = split.train.size
    images, _, problems = decode.pictures(source, size[0], count)
    protection = config.build(settings, "protection")
    state = protection.fit(split.public.images(), split.public.labels, settings.seed)
    pictures.face_grid(out, stages(protection, state, images, settings.seed))
    event = federation.release_event(settings, protection, size, state)
    lines = [f"{out}: {len(images)} images at {size[0]}x{size[1]} through {settings.protection.name}"]
    lines += [f"left out: {problem}" for problem in problems]
    lines += [statements.claim(statement) for statement in statements.price(event)]
    return "\n".join(lines)


def sample(protection: Any, state: Mapping[str, torch.Tensor], faces: FaceSet, count: int = 8) -> dict[str, Any]:
    """Return the picture's rows for `count` different people of a synthetic face set."""
    people = faces.identities[:count]
    index = np.array([int(np.flatnonzero(faces.labels == person)[0]) for person in people])
    return stages(protection, state, faces.images(index), 0)
