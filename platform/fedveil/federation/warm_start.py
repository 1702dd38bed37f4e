"""Where a backbone starts: from the public seed, from public or synthetic faces, or from an earlier run."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, randomness, runs
from fedveil.configuration.schema import Config
from fedveil.data.faces import FaceSet
from fedveil.federation import generating, room, starting, synthetic, training
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil.privacy.events import NonPrivate
from fedveil.privacy.totals import STARTED
from fedveil.protections.base import Progress, State

PUBLIC = "public"
_TRAINED = (PUBLIC, synthetic.NAME)
"""Starts that are trained here, on faces whose leak is known: none, or what their file says (`privacy.inherited`)."""
VIEW = STARTED
"""Who sees what a start has learnt."""


def leak(settings: Config) -> NonPrivate | None:
    """Return the event of a start that nobody declared public: what it learnt from is in no guarantee of this run."""
    warm = settings.train.warm_start
    if warm is None or warm in _TRAINED or settings.train.warm_start_is_public:
        return None
    reason = f"the backbone starts from {warm}, which may have learnt from private faces (train.warm_start_is_public)"
    return NonPrivate("image", VIEW, reason)


_MOMENTUM = 0.9


def checkpoint(settings: Config) -> Path | None:
    """Return the file that the backbone starts from; None where it starts from none.

    Raises:
        fedveil.checks.UserError: no such run or file, one that is declared public and says that it is not, or a network
            that cannot start without one.
    """
    warm = settings.train.warm_start
    generating.check_start(settings)
    if warm is not None and settings.train.warm_start_is_public and Path(warm).is_file():
        starting.check_public(Path(warm))
    if warm is None or warm in _TRAINED:
        if settings.model.settings.get("norm") == "affine":
            raise checks.UserError(
                "model.norm=affine normalises nothing: from random values it does not learn. Start from a file or run "
                "of such a network (train.warm_start=FILE), or choose model.norm=group."
            )
        return None
    return Path(warm) if Path(warm).is_file() else runs.open_run(Path(settings.runs.root), warm).checkpoint


def check(federation: Federation) -> None:
    """Refuse a start that cannot be, before anything is written.

    Raises:
        fedveil.checks.UserError: no such run or file, tensors of another network, or too few synthetic faces.
    """
    if federation.settings.train.warm_start == synthetic.NAME:
        _faces(federation)
    path = checkpoint(federation.settings)
    if path is not None and not federation.protection.phases:  # a phase may say where the next network starts
        starting.fitted(path, federation.backbone(), federation.settings.model.name)


def initial(
    federation: Federation, state: State, backbone: torch.nn.Module, progress: Progress
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that round 1 starts from, as `train.warm_start` says.

    `null` keeps the initial backbone; `public` trains it on the data source's public faces, which are nobody's secret
    and cost no privacy; `synthetic` on the faces of `train.synthetic`, which cost what their generator told; anything
    else is a run id of this run store or a file (`starting`).

    Raises:
        fedveil.checks.UserError: no such run or file, or a backbone of another shape.
    """
    path = checkpoint(federation.settings)
    if federation.settings.train.warm_start in _TRAINED:
        _on_faces(federation, state, backbone, progress)
    elif path is not None:
        set_tensors(backbone, starting.fitted(path, backbone, federation.settings.model.name))
    return get_tensors(backbone)


def _faces(federation: Federation) -> FaceSet:
    """Return the faces on which a start is trained, of two people or more."""
    named = federation.settings.train.warm_start
    faces = federation.public
    if named == synthetic.NAME:
        faces = synthetic.faces(federation.settings, "train.warm_start=synthetic")
    if faces.identities.size < 2:
        raise checks.UserError(
            f"train.warm_start={named} needs 2 {named} people or more; there are {faces.identities.size}."
        )
    return faces


def _on_faces(federation: Federation, state: State, backbone: torch.nn.Module, progress: Progress) -> None:
    """Train `train.warm_steps` steps of SGD with momentum on these faces, protected with fresh public draws."""
    settings, protection, named = federation.settings, federation.protection, federation.settings.train.warm_start
    assert named is not None  # initial
    faces = _faces(federation)
    people, labels = np.unique(faces.labels, return_inverse=True)
    place, placed = federation.place, federation.place.state(state)
    targets = place.fed(torch.from_numpy(labels.astype(np.int64)))
    steps, size = settings.train.warm_steps, settings.train.batch_size
    with torch.inference_mode():
        dimension = int(backbone(torch.zeros(1, *protection.layout(faces.size), device=place.device)).shape[1])
    centres = training.head_init(int(people.size), dimension, randomness.public_torch(settings.seed, "head", named))

    def batches() -> Generator[tuple[torch.Tensor, torch.Tensor]]:
        indices = training.batch_indices(len(faces), size, settings.seed, "batches", named, steps=steps)
        for step, index in enumerate(indices):
            keys = [randomness.test_key(settings.seed, "warm start", step, place) for place in range(len(index))]
            streams = [randomness.SecretStream(key) for key in keys]
            released = protection.release(place.put(faces.images(index)), placed, streams)
            features = place.fed(protection.features(released, placed))
            yield features, targets[place.fed(torch.from_numpy(index))]
            progress(step + 1, steps)

    full = False
    with contextlib.closing(place.ahead(batches())) as made:
        try:
            loss = training.local_sgd(
                backbone, place.fed(centres), federation.head, made, settings.train.warm_lr,
                momentum=_MOMENTUM, weight_decay=settings.train.weight_decay, precision=place.precision,
                device_batch=place.batch,
            )  # fmt: skip
        except torch.OutOfMemoryError:
            full = True  # the error holds the step's tensors: how many fit is asked without it
    if full:
        layout, at_once = protection.layout(faces.size), min(size, len(faces), place.batch or size)
        raise room.too_much(backbone, layout, int(people.size), federation.head, place, at_once)
    training.check_finite(loss, backbone.parameters(), **{"train.warm_lr": settings.train.warm_lr})
