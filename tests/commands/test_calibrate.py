"""`fedveil calibrate` proves something of a mechanism, and says where a run would claim nothing all the same."""

from __future__ import annotations

import pytest

from fedveil import config
from fedveil.commands import calibrate

WORDS = ["protection=none", "privacy.client.epsilon=4", "train.rounds=2", "train.cohort.rate=0.5"]


@pytest.mark.parametrize(
    ("word", "why"),
    [("", ""), ("privacy.test_seed=3", "NOT PRIVATE"), ("train.warm_start=x.npz", "starts from x.npz")],
)
def test_noise_that_would_not_help_is_named(word: str, why: str) -> None:
    said = calibrate.calibrate(config.load([*WORDS, *([word] if word else [])]))
    assert "proven        epsilon between" in said
    assert ("claim         nothing" in said) == bool(word)
    assert why in said
