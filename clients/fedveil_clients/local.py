"""Which work a client does in a round: one choice for all who ask, by what the federation trains and promises."""

from __future__ import annotations

from collections.abc import Callable

from fedveil.federation.federation import Federation
from fedveil.records import Update
from fedveil_clients import generating, private_training, training


def train_round(federation: Federation) -> Callable[..., Update]:
    """Return the client's round: (site, round, tensors[, room]) to its update."""
    if federation.generator is not None:
        return generating.train_round
    return training.train_round if federation.private is None else private_training.train_round
