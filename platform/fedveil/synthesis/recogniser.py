"""The recogniser that says who somebody is to a generator: learnt from the same public faces, or somebody's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedveil import randomness, runs
from fedveil.attacks.base import Progress, silent
from fedveil.data.faces import FaceSet
from fedveil.device import Place
from fedveil.federation import starting, training
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import set_tensors
from fedveil.models.heads.cosface import CosFace
from fedveil.synthesis.training import in_range

_PARTS = ((0.85, 0.05), (0.15, 0.005))
"""Shares of the steps and their learning rates."""
_BATCH, _MOMENTUM, _DECAY = 48, 0.9, 5e-4


def recogniser(
    federation: Federation, faces: FaceSet, start: str | None, steps: int, place: Place, progress: Progress = silent
) -> nn.Module:
    """Return the configured backbone, trained: pixels (B, 3, H, W) in [-1, 1] to (B, D).

    Args:
        federation: of protection=none.
        faces: public people.
        start: a run id of the run store, or a file of tensors; None: it learns from `faces`.
        steps: of its own training.
        place: where it is trained and stays.
        progress: is shown the steps.

    Raises:
        fedveil.checks.UserError: no such run or file, or a network of another shape.
    """
    settings = federation.settings
    coins = randomness.public_torch(settings.seed, "recogniser")
    backbone: nn.Module = federation.model.build(3, federation.size, coins)
    if start is not None:
        path = Path(start) if Path(start).is_file() else runs.open_run(Path(settings.runs.root), start).checkpoint
        set_tensors(backbone, starting.fitted(path, backbone, settings.model.name))
        return place.module(backbone)
    backbone = place.module(backbone)
    people, labels = np.unique(faces.labels, return_inverse=True)
    with torch.inference_mode():
        dimension = int(backbone(torch.zeros(1, 3, *faces.size, device=place.device)).shape[1])
    centres = training.head_init(int(people.size), dimension, randomness.public_torch(settings.seed, "centres"))
    centres, begun = place.fed(centres), 0

    def batches(first: int, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        found = training.batch_indices(len(faces), _BATCH, settings.seed, "recogniser", start_step=first, steps=count)
        for step, index in enumerate(found, first):
            flips = randomness.public_rng(settings.seed, "recogniser flips", step).random(len(index)) < 0.5
            pixels = in_range(place.put(faces.images(index)))
            which = torch.from_numpy(flips)[:, None, None, None].to(pixels.device)
            pixels = torch.where(which, pixels.flip(3), pixels)
            yield pixels, place.fed(torch.from_numpy(labels[index].astype(np.int64)))
            progress("training the recogniser", step + 1, steps)

    for number, (share, lr) in enumerate(_PARTS):
        count = steps - begun if number == len(_PARTS) - 1 else round(share * steps)
        if count:
            loss = training.local_sgd(
                backbone, centres, CosFace(scale=16.0, margin=0.2), batches(begun, count), lr, momentum=_MOMENTUM,
                weight_decay=_DECAY,
            )  # fmt: skip
            training.check_finite(loss, backbone.parameters())
        begun += count
    return backbone


