"""Canary images and people: what an adversary sees of them in private steps, through a client's own round.

No owner's data is read. A canary's gradient has norm far above C and one coordinate of its own, so that clipping makes
it exactly the extreme legal vector C e_j and canaries do not disturb each other: image j shows a one at place j, the
network is one linear layer, and the layer's column j is so short that turning it takes a gradient of millions. Coins,
clip, class centres, sums and noise are those of `private_training.train_round`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import config, randomness
from fedveil.configuration.schema import Group
from fedveil.configuration.training_budget import IdentityBudget, TrainingBudget
from fedveil.federation import private_steps
from fedveil.federation.federation import Federation
from fedveil.privacy.audit import Scores
from fedveil.records import Tensors
from fedveil_clients import private_training, sites
from fedveil_clients.policy import Node
from fedveil_clients.training import first_head

CLIENT = "c0001"
_SHORT = 1e-6  # length of a canary's column: the gradient of its direction is the loss's slope over that
_STILL = 1e-9  # learning rate of class centres that are to stay where the seed put them
_AT_ONCE = 1000  # canaries of one round
_WORDS = (
    "study=quick", "protection=none", "tracking=none", "train.clients=1", "train.weight_decay=0",
    "data.identities=12", "data.images_per_identity=2", "data.evaluation_identities=4", "data.evaluation_images=2",
    "data.pairs=8", "data.public_identities=2", "data.public_images=2", "model.width=8", "model.embedding=16",
    "evaluation.bootstrap=0", "device=cpu",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one step showed, in units of C, one trial per canary.

    Attributes:
        data: in the data set against not, by fair coins; a canary that is there joins by the run's own secret coin.
        batch: drawn against not drawn.
    """

    data: Scores
    batch: Scores


def staged(
    federation: Federation, rounds: int, steps: int, lr: float = 1.0, head_lr: float = _STILL,
    scale: float | None = None, **changed: object,
) -> Federation:  # fmt: skip
    """Return a small federation of drawn faces with a run's budget: its clip, divisor, rows, views and first noise.

    Rates, weight decay and pulls work on noisy sums, so they are not the run's.

    Args:
        federation: of the run.
        rounds: of the schedule.
        steps: of a round.
        lr: learning rate of the backbone.
        head_lr: learning rate of the class centres.
        scale: of the head's logits; None takes the run's.
        changed: fields of the budget.
    """
    settings, budget = federation.settings, _budget(federation)
    recipe = {"rounds": rounds, "local.steps": steps, "lr": lr, "head_lr": head_lr}
    bare = config.load([*_WORDS, *(f"train.{name}={value}" for name, value in recipe.items())])
    head = settings.head if scale is None else Group(settings.head.name, {**settings.head.settings, "scale": scale})
    own = {"expected_batch": private_steps.expected_batch(settings), "noise_end": 1.0, **changed}
    kept = dataclasses.replace(bare.privacy, test_seed=settings.privacy.test_seed)
    privacy = dataclasses.replace(kept, **{budget.unit: dataclasses.replace(budget, **own)})  # type: ignore[arg-type]
    policy = dataclasses.replace(bare.policy, max_delta=settings.policy.max_delta)
    return Federation(dataclasses.replace(bare, seed=settings.seed, head=head, privacy=privacy, policy=policy))


def _budget(federation: Federation) -> TrainingBudget:
    if federation.private is None:
        raise ValueError("No budget of private training is configured.")
    return federation.private


@contextlib.contextmanager
def opened(federation: Federation) -> Iterator[sites.Site]:
    """Open the one client of a staged federation in a vault that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        node = Node("audit", allow_test_seed=True, vault_root=f"{folder}/vault", device="cpu")
        site = sites.open_site(federation, "audit", CLIENT, node, {})
        site.booked.on_disk()
        yield site


def one_step(federation: Federation, canaries: int, seed: int) -> Seen:
    """Make one step at the run's rate with as many canaries, each in the data set by its own fair coin.

    Args:
        federation: of a planned configuration with noise in its private steps.
        canaries: how many.
        seed: of the public audit coins; noise and batches are the run's own.
    """
    there = randomness.public_rng(seed, "audit coins").random(canaries) < 0.5
    with opened(staged(federation, rounds=1, steps=1)) as site:
        scores, drawn = _stepped(site, there, 1)
    return Seen(Scores(scores[there], scores[~there]), Scores(scores[drawn], scores[~drawn]))


def unsampled(federation: Federation, draws: int) -> Scores:
    """Return scores of steps that draw everybody: half of the trials with a canary, half without."""
    width = min(draws, _AT_ONCE)
    rounds, there = -(-draws // width), np.arange(width) % 2 == 0
    with opened(staged(federation, rounds, steps=1, sampling_rate=1.0)) as site:
        scores = np.stack([_stepped(site, there, number)[0] for number in range(1, rounds + 1)])
    return Scores(scores[:, there].ravel(), scores[:, ~there].ravel())


def _stepped(
    site: sites.Site, there: NDArray[np.bool_], number: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each canary's coordinate of one released round, in units of C, and which canaries were looked at."""
    settings, budget = site.federation.settings, _budget(site.federation)
    count = len(there)
    pictures = 2 if isinstance(budget, IdentityBudget) else 1  # of one person
    canary = np.repeat(np.flatnonzero(there), pictures)
    looked = np.zeros(count, bool)

    def features(index: NDArray[np.int64], step: int) -> torch.Tensor:
        looked[canary[index]] = True
        images = torch.zeros(len(index), count, 1, 1)
        images[torch.arange(len(index)), torch.from_numpy(canary[index])] = 1.0
        return images

    backbone, start = _columns(count)
    planted = dataclasses.replace(
        site, backbone=backbone, allowed=tuple(start), layout=(count, 1, 1), features=features,
        people=np.repeat(np.arange(int(there.sum())), pictures), labels=torch.zeros(len(canary), dtype=torch.int64),
    )  # fmt: skip
    # The centre that is furthest to one side: a column's gradient is at right angles to it, and this is the longest.
    side = int(first_head(planted)[:, 1].argmax())
    planted = dataclasses.replace(planted, labels=torch.full_like(planted.labels, side))
    update = private_training.train_round(planted, number, start).tensors["1.weight"][1]
    moved = update.astype(np.float64) * private_steps.expected_batch(settings) / (settings.train.lr * budget.clip)
    return moved, looked


def _columns(count: int) -> tuple[torch.nn.Module, Tensors]:
    """Return the canaries' network, (B, count, 1, 1) to (B, 2), and its tensors: every column is (short, 0)."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(count, 2, bias=False))
    start = np.zeros((2, count), np.float32)
    start[0] = _SHORT
    return network, {"1.weight": start}
