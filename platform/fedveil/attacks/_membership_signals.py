"""What a released model shows of a picture or a person without its class centres: numbers that training may have moved.

Views: the cosines between the embedding of a picture and those of its variants, which training draws together. Norm:
the logarithm of the embedding's length. Pairs: the mean cosine between all pictures of a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.data.faces import FaceSet
from fedveil.federation.federation import Federation
from fedveil.models.embedding import embed

Floats = NDArray[np.float64]
_BATCH = 128
_SHIFTS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # pixels down, pixels to the right


def variant(pixels: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
    """Return variant number `view` of images (B, 3, H, W): 0 as they are, 1 mirrored, then moved by a pixel or more.

    >>> variant(np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2), 2)[0, 0].tolist()
    [[0, 0], [2, 2]]
    """
    if view == 0:
        return pixels
    if view == 1:
        return np.ascontiguousarray(pixels[..., ::-1])
    far, which = divmod(view - 2, len(_SHIFTS))
    down, right = ((far + 1) * step for step in _SHIFTS[which])
    rows = np.clip(np.arange(pixels.shape[2]) - down, 0, pixels.shape[2] - 1)
    columns = np.clip(np.arange(pixels.shape[3]) - right, 0, pixels.shape[3] - 1)
    return np.ascontiguousarray(pixels[:, :, rows][..., columns])


def embedded(
    federation: Federation, backbone: torch.nn.Module, state: Mapping[str, torch.Tensor], faces: FaceSet,
    index: NDArray[np.int64], views: int, seed: int, progress: Callable[[int, int], None],
) -> NDArray[np.float32]:  # fmt: skip
    """Return (B, views, D) embeddings, not normalised, of variants of pictures, each protected as deployed.

    The attacker has the pictures and protects them himself, with noise of his own from the public seed.
    """
    place, protection = federation.place, federation.protection
    placed, records = place.state(state), faces.subset(index).records
    parts = []
    for start in range(0, index.size, _BATCH):
        pixels = faces.images(index[start : start + _BATCH])
        rows = []
        for view in range(views):
            keys = (randomness.test_key(seed, "membership", view, name) for name in records[start : start + _BATCH])
            streams = [randomness.SecretStream(key) for key in keys]
            released = protection.release(place.put(variant(pixels, view)), placed, streams)
            rows.append(embed(backbone, place.fed(protection.features(released, placed))).cpu().numpy())
        parts.append(np.stack(rows, 1))
        progress(min(start + _BATCH, index.size), index.size)
    return np.concatenate(parts)


def of_pictures(embeddings: NDArray[np.float32]) -> dict[str, Floats]:
    """Return signal -> (B,) of pictures with embeddings (B, views, D)."""
    unit = _units(embeddings)
    views = np.einsum("bd,bvd->bv", unit[:, 0], unit[:, 1:]).mean(1)
    norm = np.log(np.maximum(np.linalg.norm(embeddings[:, 0].astype(np.float64), axis=1), 1e-12))
    return {"views": views, "norm": norm}


def of_people(embeddings: NDArray[np.float32], person: NDArray[np.int64], people: int) -> dict[str, Floats]:
    """Return signal -> (people,): the pairs' mean cosine, NaN for a single picture, and the means over pictures.

    Args:
        embeddings: (B, views, D) of the pictures that are looked at.
        person: (B,) whose each is, 0..people-1.
        people: how many.
    """
    count = np.bincount(person, minlength=people).astype(np.float64)
    unit = _units(_units(embeddings).sum(1))
    total = np.zeros((people, unit.shape[1]))
    np.add.at(total, person, unit)
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = ((total**2).sum(1) - count) / (count * (count - 1))  # |sum e|^2 = count + both orders of every pair
        means = {name: np.bincount(person, value, people) / count for name, value in of_pictures(embeddings).items()}
    return {"pairs": np.where(count > 1, pairs, np.nan), **means}


def _units(vectors: NDArray[np.floating]) -> Floats:
    wide = vectors.astype(np.float64)
    found: Floats = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
    return found
