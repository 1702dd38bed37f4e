"""Which sampled pictures stay: those that show their person, nearest of all, and that are not there already."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT, NOT_THE_PERSON, ANOTHER_PERSON, DUPLICATE = 0, 1, 2, 3


def by_identity(
    embeddings: NDArray[np.float32], anchors: NDArray[np.float32], owner: NDArray[np.int64], keep: float
) -> NDArray[np.int64]:
    """Return (B,) `KEPT`, `NOT_THE_PERSON` (cosine to the own anchor below `keep`) or `ANOTHER_PERSON` (one is nearer).

    Args:
        embeddings: (B, D) of length one.
        anchors: (K, D) of length one.
        owner: (B,) the own anchor's number.
        keep: smallest cosine to it; a picture of exactly that cosine stays, one without a cosine (NaN) does not.
    """
    cosines = embeddings @ anchors.T
    row = np.arange(len(owner))
    own = cosines[row, owner].copy()
    cosines[row, owner] = -np.inf
    other = cosines.max(axis=1)
    return np.where(~(own >= keep), NOT_THE_PERSON, np.where(other >= own, ANOTHER_PERSON, KEPT))


def by_likeness(
    images: NDArray[np.uint8], there: NDArray[np.bool_], new: NDArray[np.bool_], least: float
) -> NDArray[np.bool_]:
    """Return (I, m) which new pictures differ from those that are there, and from the new ones before them.

    Args:
        images: (I, m, 3, H, W), m places for each of I people.
        there: (I, m) which places hold a picture that stays.
        new: (I, m) which hold a candidate, never one that is there.
        least: smallest root-mean-square difference of two pictures of one person, in grey levels; 0: all stay.
    """
    kept = there.copy()
    close = _close(images, least)
    for place in range(images.shape[1]):  # an earlier picture wins
        kept[:, place] |= new[:, place] & ~(kept & close[:, place]).any(axis=1)
    return kept & new


def _close(images: NDArray[Any], least: float) -> NDArray[np.bool_]:
    """Return (I, m, m) which pictures of a person differ less than `least`; none from itself."""
    flat = images.reshape(*images.shape[:2], -1).astype(np.float32) - 127.5
    squares = np.einsum("imd,imd->im", flat, flat)
    distances = squares[:, :, None] + squares[:, None] - 2 * flat @ flat.transpose(0, 2, 1)
    found: NDArray[np.bool_] = distances < least**2 * flat.shape[2]
    found[:, np.arange(images.shape[1]), np.arange(images.shape[1])] = False
    return found
