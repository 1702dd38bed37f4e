"""A start that nobody declared public is a leak, whatever it is called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedveil import checks, config
from fedveil.federation import warm_start
from fedveil.storage import safetensors


@pytest.mark.parametrize("start", ["run-1", "model.npz", "/somewhere/checkpoint.npz", "publik"])
def test_whatever_is_not_the_public_faces_leaks(start: str) -> None:
    leak = warm_start.leak(config.load([f"train.warm_start={start}"]))
    assert leak is not None
    assert start in leak.reason
    assert warm_start.leak(config.load([f"train.warm_start={start}", "train.warm_start_is_public=true"])) is None


def test_no_start_and_public_faces_do_not() -> None:
    assert warm_start.leak(config.load()) is None
    assert warm_start.leak(config.load(["train.warm_start=public"])) is None


@pytest.mark.parametrize("mode", ["public", "federated", "shared"])
def test_a_file_that_says_whom_it_learnt_from_is_not_contradicted(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    origin = json.dumps({"mode": mode, "learnt_from": "ten clinics", "statements": []})
    path.write_bytes(safetensors.pack({"one": np.zeros(1, np.float32)}, {"origin": origin}))
    declared = config.load([f"train.warm_start={path}", "train.warm_start_is_public=true"])
    if mode == "public":
        assert warm_start.checkpoint(declared) == path
    else:
        with pytest.raises(checks.UserError, match=r"ten clinics.*contradicts"):
            warm_start.checkpoint(declared)
    assert warm_start.checkpoint(config.load([f"train.warm_start={path}"])) == path


@pytest.mark.parametrize("origin", ["nonsense", "[]", '{"mode": 1}'])
def test_a_file_of_somebody_else_goes_by_ones_word(origin: str, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    path.write_bytes(safetensors.pack({"one": np.zeros(1, np.float32)}, {"origin": origin}))
    assert warm_start.checkpoint(config.load([f"train.warm_start={path}", "train.warm_start_is_public=true"])) == path
