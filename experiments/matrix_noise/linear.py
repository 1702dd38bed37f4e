"""A federation small enough for many runs: a linear embedding of drawn faces, trained through the run's own rounds.

Cohorts, clipping, noise, events and claims are fedveil's (`client_level`, `rounds`); only the client is this file's. A
client has two imaginary people, and takes gradient steps that pull an embedding towards its own person's mean and away
from the other's. All clients of a round are trained at once. Accuracy is verification of people nobody trained on.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from fedveil.data.sources.procedural import draw_faces
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy.accounting.pld import LIVE_GRID
from fedveil.privacy.ledger import Ledger
from fedveil.records import Tensors, Update
from fedveil_strategies import client_level, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg

PEOPLE, IMAGES, STRANGERS, PUBLIC = 2, 6, 300, 100
CELLS, DIMENSIONS, STEPS, RATE, SHARP = 8, 24, 3, 0.5, 8.0


@functools.lru_cache(maxsize=1)
def features(seed: int, clients: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clients' (N, 2, 6, d) and strangers' (300, 6, d) features: colours of cells, scaled by public faces."""

    def cells(first: int, people: int) -> torch.Tensor:
        faces = draw_faces(seed, first, people, IMAGES, 32)
        pixels = torch.from_numpy(faces.images(range(people * IMAGES))).float().permute(0, 3, 1, 2)
        return torch.nn.functional.adaptive_avg_pool2d(pixels, CELLS).flatten(1)

    count = clients * PEOPLE
    public, own, others = cells(0, PUBLIC), cells(PUBLIC, count), cells(PUBLIC + count, STRANGERS)
    mean, spread = public.mean(0), public.std(0) + 1e-3
    scale = spread * public.shape[1] ** 0.5
    own, others = (own - mean) / scale, (others - mean) / scale
    return own.view(clients, PEOPLE, IMAGES, -1), others.view(STRANGERS, IMAGES, -1)


def embedded(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return unit embeddings."""
    return torch.nn.functional.normalize(inputs @ weights, dim=-1)


def trained(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return every client's update (k, d, m) after its local steps from the same weights (d, m)."""
    own = weights.expand(len(inputs), *weights.shape).clone()
    for _ in range(STEPS):
        own = own.detach().requires_grad_()
        found = embedded(inputs.flatten(1, 2), own).view(*inputs.shape[:3], -1)
        centres = torch.nn.functional.normalize(found.mean(2), dim=-1).detach()
        scores = SHARP * torch.einsum("kpim,kqm->kpiq", found, centres)
        labels = torch.arange(PEOPLE)[None, :, None].expand(inputs.shape[:3])
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 2), labels.flatten(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss / (PEOPLE * IMAGES), own)
        own = own - RATE * gradient
    return (own - weights).detach()


def accuracy(others: torch.Tensor, weights: torch.Tensor) -> float:
    """Return the best share of right answers over thresholds: is it one person, or two?"""
    found = embedded(others, weights)
    same = torch.einsum("pim,pjm->pij", found[:, :3], found[:, 3:]).flatten()
    shifted = found.roll(1, 0)
    different = torch.einsum("pim,pjm->pij", found[:, :3], shifted[:, 3:]).flatten()
    scores, truth = torch.cat([same, different]), torch.cat([torch.ones_like(same), torch.zeros_like(different)])
    right = truth[scores.argsort(descending=True)]
    hits = torch.cumsum(right, 0) + (len(different) - torch.cumsum(1 - right, 0))
    return float(hits.max() / len(scores))


def run(words: Sequence[str], seed: int) -> tuple[float, float, float]:
    """Return accuracy before, accuracy after, and the epsilon that the run's own ledger claims (inf without noise)."""
    federation = Federation.of(words)
    train = federation.settings.train
    own, others = features(seed, train.clients)
    start = np.linalg.qr(np.random.default_rng(seed).normal(size=(own.shape[-1], DIMENSIONS)))[0].astype(np.float32)
    plan = rounds.Plan(train.rounds, federation.registry, train.cohort, seed, ("weights",), tolerated=None)

    def transport(number: int, cohort: Sequence[str], tensors: Tensors) -> Iterator[Update]:
        if len(cohort):
            places = torch.tensor([federation.registry.index(name) for name in cohort])
            updates = trained(own[places], torch.from_numpy(tensors["weights"]))
            for name, update in zip(cohort, updates.numpy(), strict=True):
                yield Update(name, {"weights": update})

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        level = client_level.ClientLevel(federation, plan, ledger, "run")
        end = rounds.run(plan, rounds.State(0, {"weights": start}, {}), transport, FedAvg(server_lr=1.0), [],
                         level.draw, level.combine, level.proceed)  # fmt: skip
        (claim,) = [one for one in claims.of_run(federation, ledger.rows("run"), LIVE_GRID).statements
                    if one.unit == "client"]  # fmt: skip
    epsilon = float("inf") if claim.epsilon is None else claim.epsilon
    before, after = (accuracy(others, torch.from_numpy(weights)) for weights in (start, end.tensors["weights"]))
    return before, after, epsilon
