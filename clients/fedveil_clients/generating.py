"""One client's round where a generator of faces is trained: by plain steps, or by private ones; free of Flower.

A client with a generator has no class centres: what it learns is how faces look at their identities, which a frozen
public recogniser says. So nothing is kept between rounds, and only the update leaves.
"""

from __future__ import annotations

import collections
from typing import cast

import numpy as np
import torch

from fedveil import randomness
from fedveil.federation import rates, training
from fedveil.generators.base import Losses, Network, row_losses
from fedveil.records import Tensors, Update
from fedveil_clients import moved, private_training
from fedveil_clients.moved import Room
from fedveil_clients.private_training import Drawn, Learner
from fedveil_clients.sites import Site
from fedveil_clients.training import anywhere, parameters


def train_round(site: Site, round_number: int, tensors: Tensors, room: Room = anywhere) -> Update:
    """Train the generator from the global tensors and return local minus global of what is learnt, float32.

    Under `privacy.image` or `privacy.identity` the steps are private (`private_training.steps`): each picture is
    looked at in `views` draws of time and noise, whose losses are averaged before its gradient is clipped (Dockhorn et
    al. 2023, https://arxiv.org/abs/2210.09929), so more draws cost no privacy. Identity and attributes that the
    generator is told are functions of the same picture, so they are inside the same clipped gradient.

    Args:
        site: the client.
        round_number: which round, from 1.
        tensors: the global tensors, public constants of the generator included.
        room: gives the memory that the update is written to.

    Raises:
        fedveil.checks.UserError: training diverged.
    """
    settings = site.federation.settings
    train = settings.train
    own = parameters(site.backbone)
    moved.begin(site.backbone, own, tensors)
    rate = rates.factor(train.schedule, site.stage, round_number) * train.lr
    trained = [own[name] for name in site.allowed]
    if site.federation.private is not None:
        learner = Learner(Losses(cast(Network, site.backbone)), row_losses, _drawn(site), trained)
        private_training.steps(site, round_number, learner, [rate] * len(trained))
    else:
        _plain(site, round_number, trained, rate)
    rates_said = {"train.lr": train.lr}
    training.check_finite(0.0, trained, **rates_said)
    update = {}
    for name in site.allowed:
        value = own[name].detach().cpu().numpy()
        update[name] = np.subtract(value, tensors[name], out=room(value.shape))
    return Update(site.client_id, update)


def _drawn(site: Site) -> private_training.Rows:
    """Return how images become rows: varied and noised by coins that a secret number names.

    A view's time, noise and conditions depend on that number, its picture and which view it is, and not on its place in
    the batch: a picture more or less changes them for no other picture, whatever the number. Which views are mirrored
    (`train.augment.flip`) goes by place, by coins that are as secret.
    """
    network = cast(Network, site.backbone)

    def rows(part: Drawn, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, seen = site.features(part.images, number), collections.Counter[int]()
        found = []
        for row, image in zip(torch.split(pixels, 1), part.images.tolist(), strict=True):
            coins = randomness.public_torch(number, "generator draws", image, seen[image])
            found.append(network.drawn(row, coins))
            seen[image] += 1
        return torch.cat(found), torch.zeros(len(found), dtype=torch.int64, device=pixels.device)

    return rows


def _plain(site: Site, round_number: int, trained: list[torch.nn.Parameter], rate: float) -> None:
    """Take a round's steps of plain SGD on the mean loss; batches and coins are functions of the public seed."""
    settings, network = site.federation.settings, cast(Network, site.backbone)
    train, images = settings.train, len(site.people)
    count = train.local.steps or training.steps_for_epochs(images, train.batch_size, train.local.epochs or 1)
    first = (round_number - 1) * count
    indices = training.batch_indices(
        images, train.batch_size, settings.seed, "batches", site.client_id, start_step=first, steps=count
    )
    for step, index in enumerate(indices, first):
        coins = randomness.public_torch(settings.seed, "generator draws", site.client_id, step)
        loss = network.losses(network.drawn(site.features(index, step), coins)).mean()
        gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for tensor, gradient in zip(trained, gradients, strict=True):
                tensor.add_(torch.add(gradient, tensor, alpha=train.weight_decay), alpha=-rate)
