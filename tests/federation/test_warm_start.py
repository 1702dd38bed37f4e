"""A start that nobody declared public is a leak, whatever it is called."""

from __future__ import annotations

import pytest

from fedveil import config
from fedveil.federation import warm_start


@pytest.mark.parametrize("start", ["run-1", "model.npz", "/somewhere/checkpoint.npz", "publik"])
def test_whatever_is_not_the_public_faces_leaks(start: str) -> None:
    leak = warm_start.leak(config.load([f"train.warm_start={start}"]))
    assert leak is not None
    assert start in leak.reason
    assert warm_start.leak(config.load([f"train.warm_start={start}", "train.warm_start_is_public=true"])) is None


def test_no_start_and_public_faces_do_not() -> None:
    assert warm_start.leak(config.load()) is None
    assert warm_start.leak(config.load(["train.warm_start=public"])) is None
