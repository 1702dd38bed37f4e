"""What is sent beside the global tensors where drift between clients is corrected: the mean control variate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedveil.configuration.schema import Config
from fedveil.records import Tensors

PREFIX = "control/"
"""Begins the name of a variate, which has the name of its tensor behind it; no network's tensor has a slash."""


def of(settings: Config, allowed: Sequence[str]) -> list[tuple[str, str]]:
    """Return (tensor, variate) for each trained tensor, by name; none without a correction."""
    return [] if settings.train.correction == "none" else [(name, PREFIX + name) for name in allowed]


def without(names: Iterable[str]) -> list[str]:
    """Return the names that are a network's."""
    return [name for name in names if not name.startswith(PREFIX)]


def beside(
    settings: Config, allowed: Sequence[str], tensors: Tensors, state: Mapping[str, NDArray[np.float32]]
) -> Tensors:
    """Return what a round sends: the global tensors, and the variates in the server rule's state, at first zero."""
    sent = dict(tensors)
    for name, variate in of(settings, allowed):
        sent[variate] = state[variate] if variate in state else np.zeros_like(tensors[name])
    return sent
