"""The adaptive server rules against their published recursions, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedveil import checks, config
from fedveil_strategies.aggregation.fedadam import FedAdam
from fedveil_strategies.aggregation.fedyogi import FedYogi


def by_hand(rule: str, updates: list[float], lr: float, beta1: float, beta2: float, tau: float) -> list[float]:
    """Algorithm 2 of arXiv 2003.00295 for one number that starts at 0."""
    x, m, v, seen = 0.0, 0.0, tau**2, []
    for delta in updates:
        m = beta1 * m + (1 - beta1) * delta
        if rule == "adam":
            v = beta2 * v + (1 - beta2) * delta**2
        else:
            v = v - (1 - beta2) * delta**2 * math.copysign(1.0, v - delta**2) * (v != delta**2)
        x = x + lr * m / (math.sqrt(v) + tau)
        seen.append(x)
    return seen


@pytest.mark.parametrize(("rule", "kind"), [("adam", FedAdam), ("yogi", FedYogi)])
def test_rules_follow_their_recursions(rule, kind) -> None:
    rng = np.random.default_rng(1)
    updates = rng.normal(scale=10.0 ** rng.uniform(-3, 1, size=(40, 6)))
    tensors, state = {"w": np.zeros(6, np.float32), "frozen": np.ones(2, np.float32)}, {}
    seen = []
    for update in updates:
        tensors, state = kind(0.1, 0.8, 0.95, 0.01).step(tensors, {"w": update}, state)
        seen.append(tensors["w"])
        assert (state["v/w"] >= 0).all()
    expected = np.array([by_hand(rule, list(column), 0.1, 0.8, 0.95, 0.01) for column in updates.T]).T
    assert np.allclose(seen, expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(tensors["frozen"], np.ones(2))


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_a_step_in_blocks_has_the_bits_of_one_on_whole_tensors(kind) -> None:
    rule, rng, shape = kind(0.1, 0.8, 0.95, 0.01), np.random.default_rng(2), (300, 301)
    tensors, state = {"w": rng.standard_normal(shape, np.float32)}, {}
    m, v = np.float32(0.0), np.float32(rule.tau**2)
    for _ in range(3):
        mean = rng.standard_normal(shape)
        first, second = rule.beta1 * m + (1 - rule.beta1) * mean, rule.second(v, mean**2)
        moved = (tensors["w"] + rule.server_lr * first / (np.sqrt(second) + rule.tau)).astype(np.float32)
        m, v = first.astype(np.float32), second.astype(np.float32)
        tensors, state = rule.step(tensors, {"w": mean}, state)
        assert all(map(np.array_equal, (tensors["w"], state["m/w"], state["v/w"]), (moved, m, v)))


def test_yogi_forgets_a_large_update_slowly() -> None:
    """After one large update and many small ones Adam's second moment has gone, and Yogi's has hardly moved."""
    moments = {}
    for kind in (FedAdam, FedYogi):
        tensors, state = {"w": np.zeros(1, np.float32)}, {}
        for size in [10.0, *[0.01] * 200]:
            tensors, state = kind(beta2=0.9).step(tensors, {"w": np.array([size])}, state)
        moments[kind] = float(state["v/w"][0])
    assert moments[FedAdam] < 1e-2
    assert moments[FedYogi] > 9.0


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
@pytest.mark.parametrize("word", ["beta1=1", "beta2=1", "tau=0", "server_lr=-1"])
def test_settings_without_a_meaning_are_refused(name: str, word: str) -> None:
    with pytest.raises(checks.UserError, match=word.partition("=")[0]):
        config.load([f"aggregation={name}", f"aggregation.{word}"])
