"""What a run that trains a generator asks of its configuration, and the network that it trains."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from fedveil import checks, randomness
from fedveil.configuration.schema import Config
from fedveil.privacy.events import NonPrivate

UNBOUNDED = NonPrivate(
    "image",
    "every update, the generator, and every face that it makes",
    "a generator learns what faces look like, and nothing bounds what it shows of one",
)
"""What a generator that learns without noise tells of an image."""

UPDATES = NonPrivate(
    "image",
    "every update that a client sends, as the coordinator sees it",
    "the coordinator adds its noise to a sum: nothing bounds what one update shows of a face",
)
"""The same where a client-level budget bounds what the generator shows."""

_BUDGETS = "privacy.image, privacy.identity or privacy.client"


def has_budget(settings: Config) -> bool:
    """Return whether noise is asked for by a budget of any unit."""
    return any(map(_noisy, (settings.privacy.image, settings.privacy.identity, settings.privacy.client)))


def _noisy(budget: Any) -> bool:
    return budget is not None and bool(budget.noise_multiplier or 0 < (budget.epsilon or 0) < math.inf)


def event(settings: Config) -> NonPrivate:
    """Return what a generator tells of an image where no private steps of a client bound it."""
    return UPDATES if _noisy(settings.privacy.client) else UNBOUNDED


def check(settings: Config) -> None:
    """Refuse settings that a generator cannot follow.

    Raises:
        fedveil.checks.UserError: naming the setting, why, and the remedy.
    """
    name, train = settings.generator.name, settings.train
    if name == "none":
        return
    if settings.protection.name != "none":
        raise checks.UserError(
            f"generator={name} learns what faces look like, which protection={settings.protection.name} hides. Set "
            f"protection=none, and protect the faces that are learnt from by {_BUDGETS}."
        )
    if not has_budget(settings) and not settings.generator.settings.get("shared"):
        raise checks.UserError(
            f"generator={name} without {_BUDGETS} hands out what its owners' faces look like: epsilon is infinite. Set "
            "a budget, or say generator.shared=true if that is meant."
        )
    for setting, value, off in (
        ("train.correction", train.correction, "none"),
        ("train.class_share", train.class_share, 1.0),
        ("train.bank_identities", train.bank_identities, 0),
        ("train.proximal", train.proximal, 0.0),
    ):
        if value != off:
            raise checks.UserError(f"{setting}={value} does nothing for generator={name}; set {setting}={off}.")


def check_start(settings: Config) -> None:
    """Refuse a generator whose frozen recogniser would be one of random values.

    Raises:
        fedveil.checks.UserError: naming the setting and the remedy.
    """
    if settings.generator.name != "none" and settings.train.warm_start in (None, "public", "synthetic"):
        raise checks.UserError(
            f"generator={settings.generator.name} goes on from a generator that learnt from public faces, whose "
            f"recogniser is frozen, and train.warm_start={settings.train.warm_start} names none. Make one with "
            "`fedveil synthesize`, then set train.warm_start=FILE and train.warm_start_is_public=true."
        )


def network(settings: Config, method: Any, recogniser: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Return the untrained generator around a recogniser, from the public seed."""
    with torch.inference_mode():
        dimension = int(recogniser(torch.zeros(1, 3, *size)).shape[1])
    coins = randomness.public_torch(settings.seed, "generator")
    built: nn.Module = method.build(recogniser, size, coins, dimension)
    return built
