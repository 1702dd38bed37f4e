"""Is a synthetic set worth anything: one person per label, different people apart, pictures varied?

The network that conditions, guides and filters is no judge of its own work, so what it says is told apart and called
circular. What counts is said by a recogniser that the generator never saw, and beside it stand the same numbers of real
or drawn faces: a network's cosines mean nothing by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks
from fedveil.attacks._judges import Judge
from fedveil.attacks.base import Progress, silent
from fedveil.device import HOST, Place
from fedveil.synthesis import _blocks
from fedveil.synthesis._measured import attributes, measured
from fedveil.synthesis.base import Generator
from fedveil.synthesis.sampling import Drawn

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, 3, H, W), and who is on them (N,), any numbers."""
CIRCULAR = (
    "by_generator is circular: this network conditioned, guided and filtered the synthetic pictures. It shows whether "
    "the generator did what it was asked, not whether the pictures show one person."
)
_BATCH = 1024


def judge(
    drawn: Drawn, embed_judge: Judge, generator: Generator, references: Mapping[str, Labelled] | None = None,
    seed: int = 1, place: Place = HOST, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Return what a synthetic set is worth, as plain JSON types.

    `sets` has one entry for `synthetic` and for each reference, with `people`, `images`, `by_judge`, `by_generator`
    and `attributes`. By a recogniser, all intervals 95 % bootstrap over people:

    * `consistency`: `pair_cosine` and `centre_cosine` (to the centre of the person's other pictures), means over
      people; `tar` at false accept rates of 1e-2 and 1e-3 among the set's own pairs, `accepted_at` the thresholds of
      the references; `auc`, `eer`;
    * `between`: mean and largest cosine of two people's centres;
    * `within`: `embedding_sd`, the root of the mean squared distance to a person's mean embedding.

    `attributes` has the standard deviation within a person, and over all pictures, in public standard deviations.

    Args:
        drawn: the set.
        embed_judge: a recogniser that neither the generator nor its training ever saw.
        generator: its `embed` and `describe` are on the place.
        references: sets of the generator's size to compare with, such as held-out real people; people with one picture
            are left out.
        seed: public, of drawn pairs and intervals.
        place: of the generator.
        progress: is shown pictures.

    Raises:
        fedveil.checks.UserError: a set of fewer than two people with two pictures, a reference of another size, or one
            that is named `synthetic`.
    """
    if "synthetic" in (references or {}):
        raise checks.UserError("A reference named 'synthetic' would take the place of the set itself; rename it.")
    sets = {**(references or {}), "synthetic": (drawn.images, drawn.labels)}
    shown = {name: _usable(name, labelled, generator.size) for name, labelled in sets.items()}
    total, done = 3 * sum(len(labels) for _, labels in shown.values()), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress("judging faces", done, total)

    described = functools.partial(_by, generator.describe, place)
    embedded = functools.partial(_by, generator.embed, place)
    found: dict[str, dict[str, Any]] = {}
    thresholds: dict[str, dict[str, dict[float, float]]] = {"by_judge": {}, "by_generator": {}}
    for name, (images, labels) in shown.items():  # the synthetic set is the last: it is held against the others
        entry: dict[str, Any] = {"people": int(labels.max()) + 1, "images": len(labels)}
        for who, function in (("by_judge", embed_judge.embed), ("by_generator", embedded)):
            elsewhere = thresholds[who] if name == "synthetic" else {}
            entry[who], thresholds[who][name] = measured(_all(function, images, tell), labels, seed, dict(elsewhere))
        entry["attributes"] = attributes(_all(described, images, tell), labels, generator.attribute_names, seed)
        found[name] = entry
    return {
        "judge": embed_judge.said, "notes": [CIRCULAR], "counts": dict(drawn.counts), "packing": dict(drawn.packing),
        "sets": dict(reversed(found.items())),
    }  # fmt: skip


def _usable(name: str, labelled: Labelled, size: tuple[int, int]) -> Labelled:
    """Return the pictures of people who have two, with labels 0..K-1."""
    images, labels = labelled
    checks.same_shape((len(labels), 3, *size), **{f"{name} faces": images.shape})
    _, number, count = np.unique(labels, return_inverse=True, return_counts=True)
    stays = count[number] > 1
    if (count > 1).sum() < 2:
        raise checks.UserError(
            f"Expected {name} faces of at least two people with two pictures each, got {int((count > 1).sum())}."
        )
    return images[stays], np.unique(number[stays], return_inverse=True)[1].astype(np.int64)


def _all(
    function: Callable[[NDArray[np.uint8]], NDArray[Any]], images: NDArray[np.uint8], tell: Callable[[int], None]
) -> NDArray[np.float64]:
    parts = []
    for start in range(0, len(images), _BATCH):
        some = images[start : start + _BATCH]
        parts.append(function(some).astype(np.float64))
        tell(len(some))
    return np.concatenate(parts)


@torch.no_grad()
def _by(function: Callable[[torch.Tensor], torch.Tensor], place: Place, images: NDArray[np.uint8]) -> NDArray[Any]:
    pixels = _blocks.to_pixels(torch.from_numpy(np.ascontiguousarray(images)))
    found: NDArray[Any] = function(pixels.to(place.device)).float().cpu().numpy()
    return found
