"""Which classes compete in a step: with many people, a drawn share of the centres is enough (Partial FC)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from fedveil import checks, randomness

Competing = Callable[[int, torch.Tensor], torch.Tensor]
"""Number of the batch, from 0, and its labels (B,) -> the classes whose centres it computes, sorted, with its own."""


def sampled(labels: torch.Tensor, classes: int, share: float, rng: np.random.Generator) -> torch.Tensor:
    """Return the classes of the labels and as many others as make ceil(share * classes), each equally likely; sorted.

    A margin softmax over them is Partial FC (https://arxiv.org/abs/2203.15565): the right class always competes, the
    others are a fresh uniform draw at every step, and centres that do not compete keep their values.

    Args:
        labels: (B,) int64 in 0..classes-1.
        classes: number of centres.
        share: in (0, 1]; a batch of more classes than that keeps all of its own.
        rng: public.

    >>> rng = np.random.default_rng(1)
    >>> sampled(torch.tensor([7, 2, 7]), 10, 0.4, rng).tolist()
    [2, 4, 7, 9]
    """
    checks.fraction(share=share)
    order = rng.random(classes)
    own = np.unique(labels.cpu().numpy())
    order[own] = -1.0
    count = max(len(own), math.ceil(share * classes))
    found = np.sort(np.argpartition(order, count - 1)[:count])
    return torch.from_numpy(found).to(labels.device)


def of_client(classes: int, share: float, seed: int, client_id: str, first: int) -> Competing | None:
    """Return the draws of a client's steps from `first` on, a function of seed, client and step; None: all compete."""
    if share == 1.0:
        return None

    def competing(number: int, labels: torch.Tensor) -> torch.Tensor:
        rng = randomness.public_rng(seed, "classes", client_id, first + number)
        return sampled(labels, classes, share, rng)

    return competing
