"""The numbers of a study's table against the definitions of their names."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "methods_on_lfw"
COST = {arm: {"payload": 1000.0, "seconds": 0.002, "parameters": 7.0} for arm in ("none", "dct", "advface")}


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_on_lfw_report", FOLDER / "report.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def cells(arm: str, accuracies: list[float], draw_sd: float | None = None) -> list[dict[str, Any]]:
    """Two folds times three seeds."""
    keys = itertools.product((1, 2, 3), (0, 1))
    return [
        {"arm": arm, "fold": fold, "seed": seed, "accuracy": accuracy, "auc": accuracy + 0.1, "eer": 1 - accuracy,
         "tar": {"0.1": 0.5, "0.01": {"omitted": "too few"}}, "draw_sd": draw_sd, "cpu_seconds": 10.0,
         "adv/clean": None}
        for (seed, fold), accuracy in zip(keys, accuracies, strict=True)
    ]  # fmt: skip


def test_a_difference_is_paired_by_fold_and_seed_and_has_a_standard_error(report: ModuleType) -> None:
    base, other = cells("none", [0.8, 0.7, 0.81, 0.72, 0.79, 0.71]), cells("dct", [0.9, 0.7, 0.9, 0.7, 0.9, 0.7])
    mean, error, count = report.against(reversed(other), base)
    found = np.array([[0.1, 0.0], [0.09, -0.02], [0.11, -0.01]])  # seeds, folds
    assert count == 6
    assert mean == pytest.approx(found.mean())
    assert error == pytest.approx(found.mean(1).std(ddof=1) / np.sqrt(3))
    assert report.against(other[:2], base[1:])[2] == 1
    assert np.isnan(report.against(other[:1], base[1:])[0])


def test_spreads_are_over_seeds_of_the_mean_over_folds_and_over_draws(report: ModuleType) -> None:
    over_seeds, over_draws = report.spreads(cells("dct", [0.8, 0.6, 0.9, 0.5, 0.8, 0.8], draw_sd=0.012))
    assert over_seeds == f"{100 * np.std([0.7, 0.7, 0.8], ddof=1):.1f}"
    assert over_draws == "1.2"
    unequal = [{**cell, "draw_sd": sd} for cell, sd in zip(cells("dct", [0.7] * 6), [0.01, 0.03] * 3, strict=True)]
    assert report.spreads(unequal)[1] == f"{100 * np.sqrt((0.01**2 + 0.03**2) / 2):.1f}"
    assert report.spreads(cells("dct", [0.8, 0.6, 0.9, 0.5, 0.8, 0.8])[:3])[0] == "-", "half a seed is none"
    assert report.spreads(cells("dct", [0.8, 0.6, 0.9, 0.5, 0.8, 0.8])[:2]) == ("-", "-")


def test_the_table_has_a_row_per_method_and_one_more_for_the_clean_gallery(report: ModuleType, tmp_path: Path) -> None:
    adv = cells("advface", [0.6] * 6, 0.01)
    for cell in adv:
        cell["adv/clean"] = {"accuracy": 0.5, "auc": 0.55, "eer": 0.5, "draw_sd": 0.02, "tar": {"0.01": 0.25}}
    done = [*cells("none", [0.8] * 6), *adv, *cells("dct, once more", [0.7] * 6), *cells("dct", [0.75] * 6)]
    lines = report.table(done, COST, ["none", "dct", "advface", "duetface"]).splitlines()
    assert [line.count("|") for line in lines] == [lines[0].count("|")] * 6
    assert lines[2].startswith("| none: the image | 80.0 | 0.0 | - | - |")
    assert "| 5.0 (0.0) |" in lines[3]
    assert "| 60.0 |" in lines[4]
    assert lines[5].startswith(f"| {report.CLEAN} | 50.0 | 0.0 | 2.0 | 30.0 (0.0) | 55.0 | 50.0 | 25.0 |")
    assert lines[5].endswith("| 6 | - |")
    variant = report.ablations(done, ["dct, once more"]).splitlines()[2]
    assert variant == "| dct, once more | 70.0 | 80.0 | -5.0 (0.0) | 6 |"
    report.figure(done, COST, ["none", "dct", "advface"], 64, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
