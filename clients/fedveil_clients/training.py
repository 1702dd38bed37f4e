"""One client's work in a round, free of Flower: protected copies -> local steps -> update.

Only the update of the allow-listed tensors leaves. The head (class centres), losses, counts and clean images stay.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks, randomness
from fedveil.federation import classes, rates, training
from fedveil.federation.room import too_much
from fedveil.records import Tensors, Update
from fedveil_clients import drift, moved
from fedveil_clients.heads import Heads
from fedveil_clients.moved import Room
from fedveil_clients.sites import Site


def anywhere(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return fresh memory."""
    return np.empty(shape, np.float32)


def train_round(site: Site, round_number: int, tensors: Tensors, room: Room = anywhere) -> Update:
    """Train from the global tensors with the client's own head and return local minus global, float32.

    The batches are a function of (seed, client, step number), so a round run again gives the same update.

    Args:
        site: the client.
        round_number: which round, from 1.
        tensors: the global tensors.
        room: gives the memory that the update is written to.

    Raises:
        fedveil.checks.UserError: training diverged, or the kept class centres are not of these people; nothing is kept.
    """
    settings = site.federation.settings
    train = settings.train
    own = parameters(site.backbone)
    moved.begin(site.backbone, own, tensors)
    phase = "" if site.stage.phase is None else f"phase{site.stage.index}"
    heads = site.vault.heads(site.run_id, site.client_id, phase)
    start = centres_before(site, heads, round_number)
    images = int(site.labels.numel())
    count = images * site.views
    steps = train.local.steps or training.steps_for_epochs(count, train.batch_size, train.local.epochs or 1)
    first = (round_number - 1) * steps
    indices = training.batch_indices(
        count, train.batch_size, settings.seed, "batches", site.client_id, start_step=first, steps=steps
    )
    indices = (index % images for index in indices)
    control = drift.before(site, round_number, phase)
    rate = rates.factor(train.schedule, site.stage, round_number)
    full = False
    with contextlib.closing(site.place.ahead(_batches(site, indices, first))) as batches:
        try:
            loss = training.local_sgd(
                site.backbone, start, site.federation.head, batches, rate * train.lr,
                weight_decay=train.weight_decay, centre_lr=rate * train.head_lr, trainable=site.allowed,
                precision=site.place.precision, device_batch=site.place.batch,
                pull=drift.pull(site, tensors, control),
                competing=classes.of_client(site.classes, train.class_share, settings.seed, site.client_id, first),
            )  # fmt: skip
        except torch.OutOfMemoryError:
            full = True  # the error holds the step's tensors: how many fit is asked without it
    if full:
        at_once = min(train.batch_size, count, site.place.batch or count)
        raise too_much(
            site.backbone, site.layout, site.classes, site.federation.head, site.place, at_once, site.allowed
        )
    settings_of_rates = {"train.lr": train.lr, "train.head_lr": train.head_lr}
    training.check_finite(loss, [start], **settings_of_rates)
    update = moved.taken(site.backbone, own, site.allowed, tensors, room)
    if update is None:
        raise training.diverged("the update", **settings_of_rates)
    if control is not None:
        length = steps * rate * train.lr
        update = drift.own(site, tensors, update, length)
        drift.save(site, round_number, phase, control, update, length)
    heads.save(round_number, start.detach().cpu().numpy())
    return Update(site.client_id, update)


def _batches(
    site: Site, indices: Iterator[NDArray[np.int64]], first: int
) -> Generator[tuple[torch.Tensor, torch.Tensor]]:
    for step, index in enumerate(indices, first):
        yield site.features(index, step), site.labels[site.place.fed(torch.from_numpy(index))]


def centres_before(site: Site, heads: Heads, round_number: int) -> torch.Tensor:
    """Return the class centres (classes, D) that a client's round starts from, on its device.

    Raises:
        fedveil.checks.UserError: those that are kept are of other classes.
    """
    centres = heads.before(round_number)
    if centres is not None and len(centres) != site.classes:
        raise checks.UserError(
            f"{heads.folder} holds {len(centres)} class centres for {site.classes} classes: they are another run's. "
            "Restore the vault from a backup, or start a new run."
        )
    return site.place.fed(torch.from_numpy(centres) if centres is not None else first_head(site))


def first_head(site: Site) -> torch.Tensor:
    """Return the class centres (classes, D) that a client starts from, a function of the public seed."""
    label = () if site.stage.phase is None else (site.stage.index,)
    dimension = _dimension(site.backbone, site.layout, site.place.device)
    generator = randomness.public_torch(site.federation.settings.seed, "head", site.client_id, *label)
    return training.head_init(site.classes, dimension, generator)


@functools.lru_cache(maxsize=4)
def _dimension(network: nn.Module, layout: tuple[int, ...], device: torch.device) -> int:
    """Return the length of an embedding; the clients of one process share a network."""
    with torch.inference_mode():
        return int(network(torch.zeros(1, *layout, device=device)).shape[1])


@functools.lru_cache(maxsize=4)
def parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return a network's parameters by name; the clients of one process share a network."""
    return dict(network.named_parameters())
