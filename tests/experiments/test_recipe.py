"""The numbers of the recipe's table against the definitions of their names; its arms are configurations."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedveil.federation.federation import Federation

SCRIPT = Path(__file__).parents[2] / "experiments" / "recipe" / "run.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def cells(arm: str, values: list[float], size: int = 32, gain: float = 0.01) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "seed": seed, "size": size, "passes": 8, "accuracy": value, "auc": value + 0.1,
         "flip_accuracy": value + gain, "flip_auc": value + 0.1, "cpu_seconds": 10.0}
        for seed, value in enumerate(values, 1)
    ]  # fmt: skip


def test_a_difference_is_paired_by_seed_and_has_a_standard_error(study: ModuleType) -> None:
    base, other = cells("base", [0.8, 0.7, 0.75]), cells("flip", [0.82, 0.71, 0.78])
    found = np.array([2.0, 1.0, 3.0])
    expected = f"{found.mean():+.1f} ({found.std(ddof=1) / np.sqrt(3):.1f})"
    assert study.paired(other[::-1], base, "accuracy") == expected == "+2.0 (0.6)"
    assert study.paired(other[:1], base, "accuracy") == "+2.0 (-)"
    assert study.paired(other[:1], base[1:], "accuracy") == "-"


def test_the_table_compares_with_the_arm_that_differs_in_one_thing(study: ModuleType) -> None:
    done = [*cells("base", [0.8, 0.8]), *cells("dctdp", [0.6, 0.6]), *cells("dctdp, flip", [0.65, 0.63]),
            *cells("flip", [0.9, 0.9], size=64)]  # fmt: skip
    small, large = study.table(done).split("64 px, 8 passes:")
    assert small.startswith("32 px, 8 passes:")
    rows = [line for line in small.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in rows] == ["| arm", "| base", "| dctdp", "| dctdp, flip"]
    assert rows[1] == "| base | - | 80.0 | 90.0 | - | - | +1.0 (0.0), +0.0 (0.0) | 10 | 2 |"
    assert "| base | 60.0 | 70.0 | -20.0 (0.0) |" in rows[2]
    assert "| dctdp | 64.0 | 74.0 | +4.0 (1.0) |" in rows[3]
    assert "| flip | - | 90.0 |" in large, "a base of another size is none"


def test_every_arm_is_a_federation_and_has_its_base(study: ModuleType) -> None:
    for arm, words in study.ARMS.items():
        assert study.base_of(arm) in study.ARMS
        Federation.of([*words, "data.size=32"])
