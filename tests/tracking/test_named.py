"""A run's name says method, budget and seed, whatever else its configuration holds."""

from __future__ import annotations

import pytest

from fedveil import config
from fedveil.tracking import named

NAMES = {
    "none seed 2": ["protection=none", "seed=2"],
    "dctdp eps 8 (image) seed 1": ["protection=dctdp", "protection.total_epsilon=8", "seed=1"],
    "dctdp eps 0.5 (coefficient) seed 1": ["protection=dctdp", "protection.mode=coefficient", "seed=1"],
    "none eps 8 (client) seed 1": ["protection=none", "privacy.client.epsilon=8", "seed=1"],
    "none noise 1.5 (client) seed 1": ["protection=none", "privacy.client.noise_multiplier=1.5", "seed=1"],
    "none clip only (client) seed 1": ["protection=none", "privacy.client.epsilon=inf", "seed=1"],
    "none eps 4 (identity steps) seed 1": ["protection=none", "privacy.identity.epsilon=4", "seed=1"],
    "dctdp eps 8 (image) eps 2 (image steps) seed 1": [
        "protection=dctdp", "protection.total_epsilon=8", "privacy.image.epsilon=2", "seed=1"
    ],
    "none fixed noise seed 1": ["protection=none", "privacy.test_seed=3", "seed=1"],
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_configuration(name: str) -> None:
    assert named.run(config.load(NAMES[name])) == name


def test_what_else_a_sweep_varies_is_named_and_budgets_only_once() -> None:
    settings = config.load(["protection=dctdp", "protection.total_epsilon=8", "train.lr=0.2", "model=tiny_ir"])
    keys = ["protection", "protection.total_epsilon", "seed", "train.lr", "model", "privacy.client.epsilon"]
    assert named.method(settings, keys) == "dctdp eps 8 (image) lr=0.2 model=tiny_ir"


def test_methods_sort_by_budget() -> None:
    budgets = [0.5, 1, 2, 10, 16, 100, 5000, 1e6]
    names = [named.method(config.load(["protection=dctdp", f"protection.total_epsilon={one}"])) for one in budgets]
    assert sorted({*names}, key=named.order) == names
