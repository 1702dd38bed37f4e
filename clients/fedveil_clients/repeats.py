"""Many short private runs with and without one unit, seen by an adversary who knows everything but coins and noise.

What one step cannot show is what is carried on: class centres that were updated outside the noised vector change every
later gradient of everybody else when one unit goes. So the runs have several rounds of several steps, and their centres
stay in the vault between rounds. The adversary is the coordinator: it sends the same tensors in every round, as it may,
sees every update, and has rehearsed both worlds without noise (white-box audits: Nasr et al. 2021,
https://arxiv.org/abs/2101.04535).

The data are as bad as data may be: all units show one drawn face. The others have one row, the unit in question has
another, and the head is so steep that a gradient follows the one strongest wrong row. Whoever moves that row turns
everybody's gradient.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.federation.federation import Federation
from fedveil.privacy.audit import Scores
from fedveil.records import Tensors
from fedveil_clients import canaries, private_training, sites


@dataclasses.dataclass(frozen=True)
class Shape:
    """What one short run is.

    Attributes:
        rounds: how many.
        steps: of a round.
        others: units beside the one in question.
        noise: noise multiplier, whatever the run's: with it a hundred runs can tell a leak from none.
    """

    rounds: int = 3
    steps: int = 2
    others: int = 12
    noise: float = 2.0


SHAPE = Shape()
_QUIET = 1e-6  # noise multiplier of a rehearsal
_FAR = 1.0  # how far a unit of norm C moves the class centres in a step, whose length is 1
_SLOW = 1e-5  # learning rate of the backbone: all steps see nearly the tensors that were sent
_STEEP = 1e3  # scale of the head
_POOLED = 8  # side of the squares of which the network sees the mean
_WIDTH = 16  # length of its embedding


def runs(federation: Federation, repeats: int) -> Scores:
    """Return log-likelihood ratios of everything released, of runs with the unit (present) and without it (absent).

    Every unit is in every step, so that all steps together have a Gaussian trade-off curve.

    Args:
        federation: of a planned configuration with noise in its private steps.
        repeats: runs on each side.
    """
    count = SHAPE.rounds * (2 * repeats + 1)
    loud, quiet = (_staged(federation, count, noise) for noise in (SHAPE.noise, _QUIET))
    with canaries.opened(loud) as opened:
        worlds, start = [_planted(opened, there) for there in (True, False)], _start(opened)
        known = [
            _released(dataclasses.replace(site, federation=quiet), start, 1, f"rehearsal {world}")
            for world, site in enumerate(worlds)
        ]
        difference, middle = known[0] - known[1], (known[0] + known[1]) / 2
        found = np.zeros((2, repeats))
        for world, number in np.ndindex(2, repeats):
            first = SHAPE.rounds * (2 * number + world + 1) + 1  # under a test seed every round has a key of its own
            seen = _released(worlds[world], start, first, f"run {world} {number}")
            found[world, number] = np.sum((seen - middle) * difference)
    return Scores(found[0], found[1])


def _staged(federation: Federation, rounds: int, noise: float) -> Federation:
    clip = 1.0 if federation.private is None else federation.private.clip
    return canaries.staged(
        federation, rounds, SHAPE.steps, lr=_SLOW, head_lr=_FAR / clip, scale=_STEEP, noise_multiplier=noise,
        sampling_rate=1.0, expected_batch=1, views=1,
    )  # fmt: skip


def _released(site: sites.Site, start: Tensors, first: int, run_id: str) -> NDArray[np.float64]:
    """Return (rounds, P) what a run sends from round `first` on; its class centres start anew under a new run id."""
    own = dataclasses.replace(site, run_id=run_id)
    sent = [private_training.train_round(own, first + number, start).tensors for number in range(SHAPE.rounds)]
    return np.stack([np.concatenate([one[name].ravel() for name in start]) for one in sent]).astype(np.float64)


def _planted(site: sites.Site, there: bool) -> sites.Site:
    """Return the client with units that all show the first picture; the last one is there or not."""
    row = np.repeat([0, 1], [SHAPE.others, int(there)])
    channels, height, width = site.layout
    inputs = channels * (height // _POOLED) * (width // _POOLED)
    network = torch.nn.Sequential(
        torch.nn.AvgPool2d(_POOLED), torch.nn.Flatten(), torch.nn.Linear(inputs, _WIDTH, bias=False)
    )
    return dataclasses.replace(
        site, backbone=network, allowed=("2.weight",), features=lambda index, step: site.features(0 * index, step),
        people=np.arange(row.size), labels=torch.from_numpy(row),
    )  # fmt: skip


def _start(site: sites.Site) -> Tensors:
    """Return the tensors of the tiny network that stands for a backbone."""
    channels, height, width = site.layout
    inputs = channels * (height // _POOLED) * (width // _POOLED)
    values = randomness.public_rng(site.federation.settings.seed, "audit network").normal(size=(_WIDTH, inputs))
    return {"2.weight": (values / np.sqrt(inputs)).astype(np.float32)}
