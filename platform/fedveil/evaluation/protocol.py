"""One evaluation: declared-public pairs, protected as deployed, embedded, scored; three spreads, each by its name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks, randomness
from fedveil.data.faces import FaceSet
from fedveil.data.pairs import PairSet
from fedveil.device import HOST, Place, out_of_memory
from fedveil.evaluation import intervals, verification
from fedveil.models.embedding import embed
from fedveil.protections.base import Protection, State

Gallery = Literal["protected", "clean"]
_NUMBERS = 2**25  # of a batch's features: 128 MiB, whatever the layout
_GUESSING = 0.47  # equal error rate
_CHANCE = 0.03  # of the accuracy, above guessing
_ROC_GRID = np.unique(np.concatenate([np.geomspace(1e-5, 1.0, 101), np.linspace(0.0, 1.0, 101)]))


@dataclasses.dataclass(frozen=True)
class Result:
    """What one evaluation found; every rate is a fraction, every mean is over the noise draws.

    Attributes:
        accuracy: mean over folds of the accuracy at the best threshold of the other folds.
        fold_sd: standard deviation over folds, within one draw (mean over draws).
        draw_sd: standard deviation of the accuracy over noise draws; None for a single draw.
        interval: 95 % bootstrap interval of the accuracy over identities, with the found thresholds; the share of same
            pairs fixed; None without resamples.
        eer: equal error rate.
        auc: area under the ROC.
        tar: false accept rate -> true accept rate, or {"omitted": reason}.
        roc: (false accept rate, true accept rate) points of all draws together, thinned.
        thresholds: the first draw's threshold in each fold.
        draws: number of noise draws; 1 for a protection without noise.
        pairs: number of pairs.
        collapsed: the model tells nobody from anybody: the equal error rate and the accuracy are those of guessing.
    """

    accuracy: float
    fold_sd: float
    draw_sd: float | None
    interval: tuple[float, float] | None
    eer: float
    auc: float
    tar: dict[float, verification.Rate]
    roc: tuple[tuple[float, float], ...]
    thresholds: tuple[float, ...]
    draws: int
    pairs: int
    collapsed: bool = False


def evaluate(
    backbone: nn.Module,
    protection: Protection,
    state: State,
    pairs: PairSet,
    draws: int,
    seed: int,
    gallery: Gallery = "protected",
    fars: Iterable[float] = (0.1, 0.01, 0.001),
    batch: int = 256,
    repeats: int = 1000,
    place: Place = HOST,
    flip: bool = False,
) -> Result:
    """Return how well the backbone verifies `pairs` on protected images.

    Both sides of a pair are protected as deployed, each with its own noise; `gallery="clean"` spares the right side the
    noise (not the transform). Each distinct image is embedded once per draw and side. Evaluation images are public, so
    their noise comes from keys derived from (seed, draw, side, image): the result is a function of the arguments.
    With `flip` an embedding is the sum of those of the release and of its mirror image, as the field does it; the
    second is computed from the first (`Protection.mirrored`) and is no other draw. The backbone is on `place.device`
    and runs in float32. A protection without noise gets one draw. Pairs of a single fold (a held fold of LFW) are
    divided by `verification.sub_folds`.

    Raises:
        UserError: if the pairs are not declared public, or hold only one kind of pair.
    """
    if not pairs.declared_public:
        raise checks.UserError(
            "Expected pairs.declared_public=True: evaluation reads these people's faces in the open. Evaluate on a "
            "public benchmark or on procedural faces, or declare in the data settings that these pairs are public."
        )
    checks.positive(draws=draws, batch=batch)
    checks.non_negative(repeats=repeats)
    checks.one_of(("protected", "clean"), gallery=gallery)
    fars = tuple(fars)
    folds = pairs.folds if len(np.unique(pairs.folds)) > 1 else verification.sub_folds(pairs.same)
    used = draws if protection.noise else 1
    numbers = math.prod(protection.layout(pairs.faces.size))
    batch = max(1, min(batch, _NUMBERS // numbers))
    embedder = _Embedder(backbone, protection, place.state(state), pairs, seed, batch, place, flip)
    scores = [embedder.scores(draw, gallery) for draw in range(used)]
    found = [verification.kfold_accuracy(score, pairs.same, folds) for score in scores]
    accuracies = np.array([one.mean for one in found])
    accuracy, eer = float(accuracies.mean()), float(np.mean([verification.eer(score, pairs.same) for score in scores]))
    return Result(
        accuracy=accuracy,
        fold_sd=float(np.mean([one.sd for one in found])),
        draw_sd=float(accuracies.std(ddof=1)) if used > 1 else None,
        interval=_interval(pairs, folds, scores, found, seed, repeats) if repeats else None,
        eer=eer,
        auc=float(np.mean([verification.auc(score, pairs.same) for score in scores])),
        tar=_mean_rates([verification.tar_at_far(score, pairs.same, fars) for score in scores]),
        roc=_thin_roc(np.concatenate(scores), np.tile(pairs.same, used)),
        thresholds=tuple(found[0].thresholds.tolist()),
        draws=used,
        pairs=len(pairs.same),
        collapsed=_collapsed(accuracy, eer, float(pairs.same.mean())),
    )


def _collapsed(accuracy: float, eer: float, same: float) -> bool:
    """Return whether rates are those of guessing, which gets the commoner kind of pair right; NaN is no better."""
    return not eer < _GUESSING and not accuracy > max(same, 1 - same) + _CHANCE


@dataclasses.dataclass(frozen=True)
class _Embedder:
    backbone: nn.Module
    protection: Protection
    state: State
    pairs: PairSet
    seed: int
    batch: int
    place: Place = HOST
    flip: bool = False

    def scores(self, draw: int, gallery: Gallery) -> NDArray[np.float64]:
        """Return the (P,) cosines of one draw."""
        pairs = self.pairs
        if not self.protection.noise:  # both sides alike: every image once
            images, place = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
            both = self._embed(images, draw, "both", noisy=True)
            return verification.scores(both[place[: len(pairs.left)]], both[place[len(pairs.left) :]])
        sides = []
        for side, index, noisy in (("left", pairs.left, True), ("right", pairs.right, gallery == "protected")):
            images, place = np.unique(index, return_inverse=True)
            sides.append(self._embed(images, draw, side, noisy)[place])
        return verification.scores(sides[0], sides[1])

    def _embed(self, images: NDArray[np.int64], draw: int, side: str, noisy: bool) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(images), self.batch):
            chosen = images[start : start + self.batch]
            pixels = self.place.put(self.pairs.faces.images(chosen))
            if noisy:
                keys = (randomness.test_key(self.seed, "evaluation", draw, side, int(image)) for image in chosen)
                released = self.protection.release(pixels, self.state, [randomness.SecretStream(key) for key in keys])
            else:
                released = self.protection.clean(pixels, self.state)
            embedded = self._embedded(self.protection.features(released, self.state))
            if self.flip:
                embedded += self._embedded(self.protection.features(self.protection.mirrored(released), self.state))
            parts.append(embedded)
        return np.concatenate(parts)

    def _embedded(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Return the embeddings, in smaller batches where a device has no room for a whole one."""
        features, batch = self.place.fed(features), self.batch
        while True:
            try:
                found: NDArray[np.float32] = embed(self.backbone, features, batch).cpu().numpy()
                return found
            except torch.OutOfMemoryError as error:
                if batch == 1:
                    raise out_of_memory(self.place, 1, 0) from error
                batch //= 2


def embedded(
    backbone: nn.Module,
    protection: Protection,
    state: State,
    faces: FaceSet,
    images: NDArray[np.int64],
    seed: int,
    batch: int = 256,
    place: Place = HOST,
    flip: bool = False,
) -> NDArray[np.float32]:
    """Return (B, D) the embeddings of some public faces, protected as deployed, with noise from public keys."""
    none = np.empty(0, np.int64)
    pairs = PairSet(faces, none, none, none.astype(bool), none, declared_public=True)
    batch = max(1, min(batch, _NUMBERS // math.prod(protection.layout(faces.size))))
    embedder = _Embedder(backbone, protection, place.state(state), pairs, seed, batch, place, flip)
    return embedder._embed(images, 0, "template", noisy=True)


def _interval(
    pairs: PairSet,
    folds: NDArray[np.int64],
    scores: list[NDArray[np.float64]],
    found: list[verification.FoldAccuracy],
    seed: int,
    repeats: int,
) -> tuple[float, float]:
    fold = np.unique(folds, return_inverse=True)[1]
    right = np.mean(
        [(score >= one.thresholds[fold]) == pairs.same for score, one in zip(scores, found, strict=True)], axis=0
    )
    labels = pairs.faces.labels
    rng = randomness.public_rng(seed, "evaluation", "bootstrap")
    statistic = intervals.weighted_accuracy(right, pairs.same)
    return intervals.bootstrap_interval(statistic, labels[pairs.left], labels[pairs.right], rng, repeats)


def _mean_rates(draws: list[dict[float, verification.Rate]]) -> dict[float, verification.Rate]:
    """Return the mean over draws of each rate; what is omitted is so in every draw, because the pairs are the same."""
    out: dict[float, verification.Rate] = {}
    for far, first in draws[0].items():
        rates = [rate for rate in (draw[far] for draw in draws) if isinstance(rate, float)]
        out[far] = float(np.mean(rates)) if rates else first
    return out


def _thin_roc(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Return the highest ROC point at or below each of about 200 false accept rates, (0, 0) and (1, 1) included."""
    far, tar, _ = verification.roc(scores, same)
    kept = np.unique(np.concatenate([[0], np.searchsorted(far, _ROC_GRID, side="right") - 1]))
    return tuple((float(far[i]), float(tar[i])) for i in kept)
