"""The measurement of private steps: its yardstick has the size that it says, and every mode takes a step."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "experiments/private_step/bench.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    if not BENCH.is_file():
        pytest.skip("no checkout with experiments")
    spec = importlib.util.spec_from_file_location("private_step_bench", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    torch.set_num_threads(threads)
    return module


def test_the_yardstick_has_its_size(bench: ModuleType) -> None:
    assert sum(parameter.numel() for parameter in bench.anchor(64).parameters()) + 500 * 512 == 5_151_776


def test_every_mode_takes_a_step(bench: ModuleType) -> None:
    args = argparse.Namespace(device="cpu", precision="fp32", batch=3, classes=4, warm=0, repetitions=1)
    found = bench.times("tiny_ir:16", bench.MODES, args)
    assert list(found) == bench.MODES
    assert found["plain"]["ratio"] == 1.0
    assert all(row["ms_min"] <= row["ms"] <= row["ms_max"] for row in found.values())
