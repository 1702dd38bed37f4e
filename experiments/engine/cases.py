"""The workloads of this benchmark, and the bare loop that every engine is measured against.

The small and the big case: 100 clients of 64 images, 10 of them in each of 20 rounds, 0.28 million parameters; 50 of
them in each of 3 rounds, 5 million. The third has fedveil's default network, 0.14 million, and Poisson cohorts. Every
engine takes the same steps of the same network on the same pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import networks
import numpy as np
import torch

from fedveil import randomness
from fedveil.federation import training
from fedveil.federation.federation import Federation
from fedveil_strategies import cohorts

CLIENTS, PEOPLE, IMAGES, SIDE = 100, 4, 16, 32
"""Clients, people of each, pictures of a person, pixels of a side."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One workload: rounds, who joins them, and the network."""

    rounds: int
    cohort: tuple[str, ...]
    network: str = ""  # of `networks`; empty: fedveil's default
    clients: int = CLIENTS


def _fixed(size: int) -> tuple[str, ...]:
    return "train.cohort.kind=fixed", f"train.cohort.size={size}"


CASES = {
    "small": Case(20, _fixed(10), "small"),
    "big": Case(3, _fixed(50), "big"),
    "packed": Case(40, ("train.cohort.rate=0.1",)),
    "tiny": Case(2, _fixed(3), clients=4),  # for a look, and for tests
    # Memory in the size of the cohort, of one thousand clients.
    "cohort10": Case(4, _fixed(10), clients=1000),
    "cohort100": Case(4, _fixed(100), clients=1000),
    "cohort1000": Case(2, _fixed(1000), clients=1000),
}


def pictures(folder: Path, clients: int = CLIENTS) -> Path:
    """Return a packed file of random pictures, made once: PEOPLE * clients people with IMAGES each."""
    path = folder / f"pictures-{clients}.npz"
    if not path.exists():
        people = clients * PEOPLE
        draw = np.random.default_rng(1)
        images = draw.integers(0, 256, (people * IMAGES, SIDE, SIDE, 3), np.uint8)
        labels = np.repeat(np.arange(people), IMAGES)
        np.savez(path, images=images, labels=labels, names=np.array([f"p{number:06d}" for number in range(people)]))
    return path


def words(case: Case, folder: Path) -> list[str]:
    """Return the words of `fedveil simulate` for a case; nothing is evaluated before the end, nothing tracked."""
    return [
        "data=packed", f"data.path={pictures(folder, case.clients)}", f"data.size={SIDE}", "data.evaluation=procedural",
        "data.pairs=40", "protection=none", f"train.clients={case.clients}", f"train.rounds={case.rounds}",
        "train.local.epochs=1", "train.batch_size=16", *case.cohort,
        "evaluation.every=1000", "evaluation.draws=1", "evaluation.bootstrap=0", "evaluation.reference=false",
        "tracking=none", "aggregation=fedavg",
    ]  # fmt: skip


def federation_of(case: Case, folder: Path, engine: Sequence[str] = ()) -> Federation:
    """Return a case's federation; its network stands in for the one that the words would name, in every process."""
    if case.network:
        Federation.model = property(lambda self: networks.Network(case.network))  # type: ignore[assignment]
    return Federation.of([*words(case, folder), *engine])


class Bench:
    """One client's local work without any framework: what the bare loop and Flower's clients do, and nothing else."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.backbone = federation.backbone()
        self.names = tuple(name for name, _ in self.backbone.named_parameters())
        self._heads: dict[str, torch.Tensor] = {}
        self._shares = federation.shares

    def pictures_of(self, client: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a client's pictures as the network is fed them, and local labels."""
        faces = self.federation.faces_of(client)
        _, labels = np.unique(faces.labels, return_inverse=True)
        images = torch.from_numpy(faces.images())
        protection = self.federation.protection
        return protection.features(protection.release(images, {}, ()), {}), torch.from_numpy(labels)

    def train(self, number: int, client: str, known: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take one client's steps of a round, in place."""
        if client not in known:
            known[client] = self.pictures_of(client)
        images, labels = known[client]
        settings, recipe = self.federation.settings, self.federation.settings.train
        if client not in self._heads:
            generator = randomness.public_torch(settings.seed, "head", client)
            with torch.inference_mode():
                dimension = int(self.backbone(images[:1]).shape[1])
            self._heads[client] = training.head_init(PEOPLE, dimension, generator)
        steps = training.steps_for_epochs(len(labels), recipe.batch_size, 1)
        indices = training.batch_indices(
            len(labels), recipe.batch_size, settings.seed, "batches", client, start_step=(number - 1) * steps,
            steps=steps,
        )  # fmt: skip
        batches = ((images[index], labels[index]) for index in map(torch.from_numpy, indices))
        training.local_sgd(
            self.backbone, self._heads[client], self.federation.head, batches, recipe.lr,
            weight_decay=recipe.weight_decay, centre_lr=recipe.head_lr, trainable=self.names,
        )  # fmt: skip

    def flat(self) -> torch.Tensor:
        """Return a fresh vector of all parameters."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.backbone.parameters()])

    def load(self, vector: torch.Tensor) -> None:
        """Copy a vector into the parameters."""
        place = 0
        with torch.no_grad():
            for parameter in self.backbone.parameters():
                parameter.copy_(vector[place : place + parameter.numel()].view_as(parameter))
                place += parameter.numel()


def loop(federation: Federation, mark: Callable[[], None]) -> None:
    """Train a federation in one process and one thread with nothing around it: the floor of one core."""
    bench, known = Bench(federation), dict[str, tuple[torch.Tensor, torch.Tensor]]()
    settings = federation.settings.train
    current = bench.flat()
    mark()
    for number in range(1, settings.rounds + 1):
        coins = cohorts.public_words(federation.settings.seed, number)
        joined = cohorts.draw(settings.cohort, federation.registry, coins)
        total = torch.zeros_like(current)
        for client in joined:
            bench.load(current)
            bench.train(number, client, known)
            total += bench.flat()
        expected = cohorts.expected_size(settings.cohort, len(federation.registry))
        current = current + (total - len(joined) * current) / expected
        mark()
