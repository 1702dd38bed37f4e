"""Faces side by side: original, representation, and what it shows a person.

A grid shows what it is given: whether a face may be shown (procedural, or declared public) is for the caller to know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, randomness
from fedveil.data.faces import FaceSet
from fedveil.pictures import style


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


def sample(protection: Any, state: Mapping[str, torch.Tensor], faces: FaceSet, count: int = 8) -> dict[str, Any]:
    """Return the picture's rows for `count` different people of a synthetic face set."""
    people = faces.identities[:count]
    index = np.array([int(np.flatnonzero(faces.labels == person)[0]) for person in people])
    return stages(protection, state, faces.images(index), 0)


def face_grid(path: Path, rows: Mapping[str, NDArray[np.uint8]], header: str = "What leaves a face's owner") -> Path:
    """Draw faces side by side: one line per entry, such as original, representation, best inverse.

    Args:
        path: PNG to write.
        rows: label to uint8 images (N, 3, H, W), N equal in all rows; sizes may differ. Enlarged without smoothing.
        header: what is seen.

    Raises:
        UserError: no rows, another type or number of images.
    """
    checks.positive(rows_of_faces=len(rows))
    count = len(next(iter(rows.values())))
    checks.positive(faces_per_row=count)
    for label, images in rows.items():
        if images.dtype != np.uint8:
            raise checks.UserError(f"Expected rows[{label!r}] of type uint8, got {images.dtype}.")
        checks.same_shape((count, 3, *images.shape[2:]), **{f"rows[{label!r}]": images.shape})
    side, top = 1.25, 0.4  # inches, as all that follows
    margin = 0.2 + 0.08 * max(len(label) for label in rows)
    width, height = margin + side * count + 0.1, top + side * len(rows) + 0.05
    figure, axes = style.figure(width, height, header, len(rows))
    figure.set_layout_engine(None)  # every place is known
    figure.suptitle(header, fontsize=11, color=style.INK, x=0.01, y=1 - 0.1 / height, ha="left")  # a share of it is low
    figure.subplots_adjust(margin / width, 0.05 / height, 1 - 0.1 / width, 1 - top / height, hspace=0.06)
    for panel, (label, images) in zip(axes[:, 0], rows.items(), strict=True):
        panel.imshow(_beside(images), interpolation="nearest")  # a row is one picture: axes are what drawing costs
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(visible=False)
        for edge in panel.spines.values():
            edge.set_visible(False)
        panel.set_ylabel(label, fontsize=9, color=style.INK, rotation=0, ha="right", va="center", labelpad=6)
    return style.save(figure, path)


def _beside(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images (N, 3, H, W) as one (H, N * W + gaps, 3), white between them."""
    gap = max(1, images.shape[3] // 16)
    apart = np.pad(images, ((0, 0), (0, 0), (0, 0), (0, gap)), constant_values=255)
    return np.concatenate(apart.transpose(0, 2, 3, 1), axis=1)[:, :-gap]
