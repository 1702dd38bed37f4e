"""One client's round under a budget for its images or its people: private steps (DP-SGD), free of Flower.

A step draws its units by secret coins, clips each unit's gradient of backbone and class centres as one vector, sums,
adds noise once, divides by a public number and moves. What is kept and what leaves is computed from noisy sums alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.configuration.training_budget import IdentityBudget, TrainingBudget
from fedveil.federation import private_steps, pulls, rates, training
from fedveil.privacy import noise, sampling
from fedveil.private_training import choice
from fedveil.private_training.base import Batch, Clip, Loss
from fedveil.private_training.classifier import Classifier, row_losses
from fedveil.randomness import SecretStream
from fedveil.records import Tensors, Update
from fedveil_clients import drift
from fedveil_clients.moved import Room, begin
from fedveil_clients.sites import Site
from fedveil_clients.training import anywhere, centres_before, first_head, parameters

_AT_ONCE = 256  # rows that pass the network together where the device names no number; changes rounding alone


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What one step looks at.

    Attributes:
        images: (B,) image numbers; a picture stands there once per view.
        unit: (B,) position of the unit among those drawn.
        weight: (B,) what an image counts for in its unit: the weights of a unit add up to 1.
        units: how many units were drawn; it may be none.
    """

    images: NDArray[np.int64]
    unit: NDArray[np.int64]
    weight: NDArray[np.float32]
    units: int


@dataclasses.dataclass(frozen=True)
class Streams:
    """The secrets of one round: coins, noise and variants, from one key that is used for nothing else."""

    coins: SecretStream
    noise: SecretStream
    variants: SecretStream

    @classmethod
    def of(cls, key: bytes) -> Streams:
        """Return the streams of a round's key."""
        return cls(*(SecretStream(randomness.subkey(key, purpose)) for purpose in ("coins", "noise", "variants")))


def train_round(site: Site, round_number: int, tensors: Tensors, room: Room = anywhere) -> Update:
    """Train from the global tensors by private steps and return local minus global, float32.

    Guarantee: the update, and the class centres that stay, are computed from the noisy sums of `train.local.steps`
    Poisson-sampled Gaussian releases of noise multiplier z for one unit replaced by nothing; the noise has standard
    deviation z C on a sum that one unit moves by at most C. Coins and noise come from the operating system and are
    forgotten; a test seed fixes them.

    Args:
        site: the client.
        round_number: which round, from 1.
        tensors: the global tensors.
        room: gives the memory that the update is written to.

    Raises:
        fedveil.checks.UserError: training diverged, or the kept class centres are not of this run; nothing is kept.
    """
    settings = site.federation.settings
    budget = private_steps.in_round(settings, site.federation.total_rounds, round_number)
    train = settings.train
    own = parameters(site.backbone)
    begin(site.backbone, own, tensors)
    heads = site.vault.heads(site.run_id, site.client_id)
    start = centres_before(site, heads, round_number) if budget.head == "trained" else site.place.fed(first_head(site))
    classifier = Classifier(site.backbone, start, site.place.precision)
    trained = [own[name] for name in site.allowed]
    moved = [*trained, classifier.head.weight] if budget.head == "trained" else trained
    rate = rates.factor(train.schedule, site.stage, round_number)
    lengths = [rate * train.lr] * len(trained) + [rate * train.head_lr]
    steps(site, round_number, learner(site, classifier, moved), lengths, drift.pull(site, tensors, None))
    ended = classifier.head.weight.detach()
    training.check_finite(0.0, [ended, *trained], **{"train.lr": train.lr, "train.head_lr": train.head_lr})
    update = {}
    for name in site.allowed:
        value = own[name].detach().cpu().numpy()
        update[name] = np.subtract(value, tensors[name], out=room(value.shape))
    heads.save(round_number, ended.cpu().numpy())
    return Update(site.client_id, update)


Rows = Callable[[Drawn, int], tuple[torch.Tensor, torch.Tensor]]
"""Drawn images, and a number nobody else knows by which they are varied -> a network's rows and labels (B,)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """What private steps move, and what they look at.

    Attributes:
        network: from rows to outputs (B, K).
        loss: of outputs and labels, row by row.
        rows: what it looks at of the images that were drawn.
        moved: the network's parameters that are trained; all of them are in the one clipped vector of a unit.
    """

    network: torch.nn.Module
    loss: Loss
    rows: Rows
    moved: list[torch.nn.Parameter]


def learner(site: Site, classifier: Classifier, moved: list[torch.nn.Parameter]) -> Learner:
    """Return what a client with class centres learns: to tell its people apart."""

    def rows(part: Drawn, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return site.features(part.images, number), site.labels[site.place.fed(torch.from_numpy(part.images))]

    return Learner(classifier, row_losses(site.federation.head), rows, moved)


def steps(
    site: Site, round_number: int, learnt: Learner, lengths: list[float], pull: pulls.Pull | None = None
) -> None:
    """Take a round's private steps in place: all that is moved is moved by noisy sums alone.

    Args:
        site: the client.
        round_number: which round, from 1.
        learnt: what is moved.
        lengths: learning rate of each tensor.
        pull: what is added to the step of the first tensors, from public values alone.
    """
    train, rounds = site.federation.settings.train, site.federation.total_rounds
    budget = private_steps.in_round(site.federation.settings, rounds, round_number)
    streams, moved = Streams.of(_key(site, round_number)), learnt.moved
    gradient = _Gradient(site, budget, learnt)
    for _ in range(train.local.steps or 0):
        noisy = gradient.noisy(drawn(site, budget, streams), streams)
        with torch.no_grad():
            step = [torch.add(part, own, alpha=train.weight_decay) for part, own in zip(noisy, moved, strict=True)]
            if pull is not None:
                pulled = len(site.allowed)
                step[:pulled] = pull(moved[:pulled], step[:pulled])
            for tensor, part, length in zip(moved, step, lengths, strict=False):
                tensor.add_(part, alpha=-length)


def _key(site: Site, round_number: int) -> bytes:
    seed = site.federation.settings.privacy.test_seed
    if seed is None:
        return randomness.os_key()
    return randomness.test_key(seed, "private steps", site.client_id, round_number)


def drawn(site: Site, budget: TrainingBudget, streams: Streams) -> Drawn:
    """Return the units of a step, each by its own secret coin, and the images by which each is looked at."""
    words = streams.coins.words
    if not isinstance(budget, IdentityBudget):
        chosen = sampling.poisson(budget.sampling_rate, int(site.people.size), words)
        groups = [chosen[place : place + 1] for place in range(len(chosen))]
    else:
        people = sampling.poisson(budget.sampling_rate, int(site.people.max(initial=-1)) + 1, words)
        groups = [_looked_at(np.flatnonzero(site.people == one), budget, words) for one in people]
    groups = [np.repeat(group, budget.views) for group in groups]
    sizes = np.array([len(group) for group in groups], np.int64)
    return Drawn(
        images=np.concatenate([*groups, np.empty(0, np.int64)]),
        unit=np.repeat(np.arange(len(groups)), sizes),
        weight=np.repeat(1.0 / np.maximum(sizes, 1), sizes).astype(np.float32),
        units=len(groups),
    )


def _looked_at(
    images: NDArray[np.int64], budget: IdentityBudget, words: Callable[[int], NDArray[np.uint64]]
) -> NDArray[np.int64]:
    """Return the images of one person that a step looks at: all, or as many as the budget says, drawn afresh."""
    most = min(budget.images_per_step, len(images))
    return images[sampling.without_replacement(most, len(images), words)]


class _Gradient:
    """The noisy mean gradient of one client's steps."""

    def __init__(self, site: Site, budget: TrainingBudget, learner: Learner) -> None:
        self._site, self._budget, self._learner = site, budget, learner
        self._clip = Clip(budget.clip, budget.clipping)
        self._at_once = site.place.batch or _AT_ONCE
        self._divisor = private_steps.expected_batch(site.federation.settings)
        self._engine = choice.engine(budget.gradients)

    def noisy(self, these: Drawn, streams: Streams) -> list[torch.Tensor]:
        """Return the clipped, summed, noised gradients over the public batch, float32, on the device.

        Noise is drawn once per step, whatever was drawn: a step without a unit is noise alone.
        """
        sums = [torch.zeros(tensor.shape, dtype=torch.float64, device=tensor.device) for tensor in self._learner.moved]
        place = self._site.place
        for part in parts(these, self._at_once):
            # A step number nobody else knows: which variant a picture gets is one more secret coin of its own, so that
            # a picture more or less in the batch changes no other picture's.
            number = int(streams.variants.words(1)[0] >> np.uint64(2))
            inputs, labels = self._learner.rows(part, number)
            unit, weight = place.fed(torch.from_numpy(part.unit)), place.fed(torch.from_numpy(part.weight))
            batch = Batch(inputs, labels, unit, weight, part.units)
            learner = self._learner
            found = self._engine(learner.network, learner.loss, batch, learner.moved, self._clip)
            for total, one in zip(sums, found.tensors, strict=True):
                total += one
        sigma = torch.tensor((self._budget.noise_multiplier or 0.0) * self._budget.clip, dtype=torch.float64)
        mean = []
        for total in sums:
            if sigma > 0:
                total += noise.gaussian(streams.noise, sigma.expand(total.shape)).to(total.device)
            mean.append((total / self._divisor).float())
        return mean


def parts(these: Drawn, at_once: int) -> Iterator[Drawn]:
    """Yield a step's images in parts of at most `at_once` rows, units whole; a larger unit is a part by itself."""
    begin = 0
    while begin < these.units:
        first = int(np.searchsorted(these.unit, begin))
        end = int(these.unit[min(first + at_once, len(these.unit)) - 1]) + 1
        last = int(np.searchsorted(these.unit, end))
        if last - first > at_once and end - begin > 1:
            end -= 1
            last = int(np.searchsorted(these.unit, end))
        rows = slice(first, last)
        yield Drawn(these.images[rows], these.unit[rows] - begin, these.weight[rows], end - begin)
        begin = end

