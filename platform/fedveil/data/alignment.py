"""Aligned faces: the similarity that brings five landmarks to where recognisers expect them, and its picture.

The landmarks are the two eyes' centres, the nose's tip and the two corners of the mouth, left in the picture first.
Where they go is the 112-pixel template of the field (`arcface_dst` of https://github.com/deepinsight/insightface), for
other sizes scaled. Least squares: S. Umeyama, "Least-squares estimation of transformation parameters between two point
patterns", IEEE TPAMI 13(4), 1991.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fedveil import checks

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where the landmarks of an aligned face are, (x, y), the centre of the first pixel being (0, 0); 112 pixels."""
_SIDE = 112


def similarity(landmarks: ArrayLike, size: int = _SIDE) -> NDArray[np.float64]:
    """Return (2, 3): the rotation, scale and shift that bring landmarks (5, 2) nearest to the template, no reflection.

    Raises:
        fedveil.checks.UserError: landmarks that are no five finite points, or that are all one.

    >>> np.abs(similarity(TEMPLATE * 2 + 5)).round(3).tolist()
    [[0.5, 0.0, 2.5], [0.0, 0.5, 2.5]]
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise checks.UserError(f"Expected landmarks to be five points (x, y) of finite numbers, got {landmarks!r}.")
    target = _scaled(TEMPLATE, size / _SIDE)
    # As complex numbers a similarity is one factor and a shift, and least squares has one unknown.
    source, goal = points @ (1, 1j), target @ (1, 1j)
    centred = source - source.mean()
    spread = float((np.abs(centred) ** 2).sum())
    if spread < 1e-6:
        raise checks.UserError(f"Expected landmarks to be apart, got {landmarks!r}.")
    factor = (np.conj(centred) * (goal - goal.mean())).sum() / spread
    shift = goal.mean() - factor * source.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def aligned(image: Image.Image, landmarks: ArrayLike, size: int = _SIDE) -> NDArray[np.uint8]:
    """Return (3, size, size): an upright RGB picture, turned, scaled and shifted; black where it ends.

    Bilinear; a face more than twice as large is first reduced by averaging.
    """
    points = np.asarray(landmarks, np.float64)
    scale = float(np.hypot(*similarity(points, size)[:, 0]))
    if (by := int(1 / scale) if scale else 1) > 1:
        image, points = image.reduce(by), _scaled(points, 1 / by)
    there = np.vstack([similarity(points, size), (0, 0, 1)])
    back = np.linalg.inv(there)[:2]
    back[:, 2] += 0.5 - 0.5 * back[:, :2].sum(1)  # Pillow counts from a pixel's corner
    data = tuple(back.ravel().tolist())
    made = image.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(made, np.uint8).transpose(2, 0, 1))


def _scaled(points: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    """Return where points are in a picture scaled by `by`, whose first pixel's centre is (0, 0) again."""
    return (points + 0.5) * by - 0.5
