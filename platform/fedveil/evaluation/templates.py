"""Verification of templates: one feature of many pictures, and the true accept rate at each false accept rate.

Image features are normalised; the mean is taken inside a medium, so that a long video counts as much as a photograph;
media are summed and the sum normalised; templates are compared by their cosine. N. Whitelam et al., "IARPA Janus
Benchmark-B Face Dataset", CVPRW 2017; the order of steps is that of https://github.com/Tencent/TFace. Neither the
features' norms nor a detector's scores weigh pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedveil import checks
from fedveil.data.ijb import Templates
from fedveil.device import HOST, Place
from fedveil.evaluation import protocol, verification
from fedveil.protections.base import Protection, State

_AT_ONCE = 1024  # pictures whose features are in memory
_PAIRS_AT_ONCE = 2048
FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a verification of templates found; rates are fractions.

    Attributes:
        tar: false accept rate -> true accept rate, or {"omitted": reason}.
        eer: equal error rate.
        auc: area under the ROC.
        pairs: number of pairs.
        templates: number of templates.
        images: number of pictures.
    """

    tar: dict[float, verification.Rate]
    eer: float
    auc: float
    pairs: int
    templates: int
    images: int


class Aggregate:
    """Template features, added up picture by picture: memory holds one vector a template.

    A picture's normalised feature counts 1 / (pictures of its medium in its template), so that the sum over pictures is
    the sum of the media's means.

    >>> made = Aggregate(np.array([0, 0, 0]), np.array([7, 7, 8]))
    >>> made.add(np.arange(3), np.array([[2.0, 0.0], [0.0, 4.0], [3.0, 0.0]]))
    >>> made.features().round(3).tolist()
    [[0.949, 0.316]]
    """

    def __init__(self, templates: NDArray[np.int64], media: NDArray[np.int64]) -> None:
        checks.same_shape(templates.shape, media=media.shape)
        _, group, many = np.unique(np.stack([templates, media]), axis=1, return_inverse=True, return_counts=True)
        self._templates, self._weight = templates, 1.0 / many[group.ravel()]
        self._sums: NDArray[np.float64] | None = None

    def add(self, images: NDArray[np.int64], features: NDArray[Any]) -> None:
        """Add the features (B, D) of pictures (B,), each once."""
        if self._sums is None:
            self._sums = np.zeros((int(self._templates.max()) + 1, features.shape[1]))
        parts = _normalised(features.astype(np.float64)) * self._weight[images, None]
        np.add.at(self._sums, self._templates[images], parts)

    def features(self) -> NDArray[np.float64]:
        """Return (T, D) the normalised features of all templates."""
        if self._sums is None:
            raise checks.UserError("Expected at least one picture of a template.")
        return _normalised(self._sums)


def _normalised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    made: NDArray[np.float64] = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return made


def evaluate(
    backbone: nn.Module,
    protection: Protection,
    state: State,
    found: Templates,
    seed: int,
    fars: Iterable[float] = FARS,
    batch: int = 256,
    place: Place = HOST,
    flip: bool = False,
) -> Result:
    """Return how well the backbone verifies pairs of templates, every picture protected as deployed, with one draw.

    `flip` and `place` are as for `protocol.evaluate`.

    Raises:
        fedveil.checks.UserError: a picture that cannot be read.
    """
    made = Aggregate(found.templates, found.media)
    for start in range(0, len(found.faces), _AT_ONCE):
        images = np.arange(start, min(start + _AT_ONCE, len(found.faces)))
        made.add(images, protocol.embedded(backbone, protection, state, found.faces, images, seed, batch, place, flip))
    scores = pair_scores(made.features(), found.left, found.right)
    return Result(
        tar=verification.tar_at_far(scores, found.same, fars),
        eer=verification.eer(scores, found.same),
        auc=verification.auc(scores, found.same),
        pairs=found.same.size,
        templates=int(found.templates.max()) + 1,
        images=len(found.faces),
    )


def pair_scores(
    features: NDArray[np.float64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (P,) the cosines of pairs of normalised rows; few of them are in memory."""
    found = np.empty(left.size)
    for start in range(0, left.size, _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        found[some] = np.einsum("ij,ij->i", features[left[some]], features[right[some]])
    return found
