"""What a sweep's table, CSV and picture say follows from the runs' results alone."""

from __future__ import annotations

import csv
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.commands.sweep import grid, report
from fedveil.commands.sweep.sweep import Outcome, Sweep
from fedveil.pictures import frontier as pictures_frontier
from fedveil.pictures.frontier import Point

WORDS = ("protection=none,dctdp", "protection.total_epsilon=8,200", "seed=1,2,3")
ACCURACY = {"none": 0.9, "8": 0.55, "200": 0.7}


def statement(unit: str, epsilon: float | None) -> dict[str, Any]:
    formal = {"relation": "replace-one", "delta": 0.0, "view": "the copies", "meaningful": (epsilon or 99) <= 20}
    none = {"relation": "none", "delta": None, "view": "everything", "meaningful": False}
    return {"unit": unit, "epsilon": epsilon, **(none if epsilon is None else formal)}


@pytest.fixture
def outcomes() -> list[Outcome]:
    found = []
    for cell in grid.expand(WORDS).cells:
        budget = cell.values.get("protection.total_epsilon")
        accuracy = ACCURACY[budget or "none"] + 0.01 * cell.settings.seed
        claims = [statement("image", float(budget) if budget else None)]
        final = {"accuracy": accuracy, "fold_sd": 0.0, "draw_sd": 0.0, "eer": 0.1}
        result = {"final": final, "statements": claims, "wall_seconds": 1.0}
        found.append(Outcome(cell, f"r-{cell.name}", "finished", 12, result))
    found[1] = dataclasses.replace(found[1], state="failed", result=None, reason="no such folder")
    return found


def test_groups_hold_mean_and_sd_over_the_seeds_that_finished(outcomes: list[Outcome]) -> None:
    found = {grid.label(group.values): group for group in report.groups(outcomes, "image")}
    assert [*found] == ["none", "dctdp total_epsilon=200", "dctdp total_epsilon=8"]
    full, cut = found["dctdp total_epsilon=200"], found["dctdp total_epsilon=8"]
    assert full.mean == pytest.approx(0.72)
    assert full.sd == pytest.approx(statistics.stdev([0.71, 0.72, 0.73]))
    assert (full.epsilon, len(full.accuracies), len(cut.accuracies)) == (200.0, 3, 2)
    assert found["none"].epsilon is None


def test_lines_are_one_per_protection_and_budgets_are_their_points(outcomes: list[Outcome]) -> None:
    lines = report.lines(report.groups(outcomes, "image"), "image")
    assert {name: sorted(str(point.epsilon) for point in points) for name, points in lines.items()} == {
        "none": ["None"],
        "dctdp": ["200.0", "8.0"],
    }


def test_the_axis_says_whose_epsilon_it_is(outcomes: list[Outcome]) -> None:
    words = report.axis(report.groups(outcomes, "image"), "image")
    assert words == "epsilon of one image (replace-one, delta 0), nats"
    assert report.units_of(grid.expand(WORDS).cells) == {"": ("image",)}


def test_the_worst_statement_of_a_unit_stands_for_a_run() -> None:
    claims = [statement("image", 8.0), statement("image", 50.0), statement("client", 1.0)]
    found = report.statement_of({"statements": claims}, "image")
    assert found is not None
    assert found["epsilon"] == 50.0
    claims.append(statement("image", None))
    assert report.statement_of({"statements": claims}, "image") == claims[-1]


def test_the_table_fits_eighty_columns_and_marks_what_means_nothing(outcomes: list[Outcome]) -> None:
    found = report.groups(outcomes, "image")
    text = report.table(found, "image")
    assert max(map(len, text.splitlines())) <= 80
    assert "200*" in text
    assert "none (infinite)" in text
    assert any("standard deviation over n seeds" in note for note in report.explained(found, "image"))


def test_files_can_be_read_back(outcomes: list[Outcome], tmp_path: Path) -> None:
    made = grid.expand([*WORDS, f"runs.root={tmp_path}"])
    paths = report.write(Sweep("sweep-x", WORDS, made), outcomes)
    assert [path.name for path in paths] == ["runs.csv", "frontier.csv", "frontier.png"]
    every = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert [row["state"] for row in every].count("failed") == 1
    rows = list(csv.DictReader(paths[1].read_text().splitlines()))
    assert {(row["protection"], row["epsilon"], row["seeds"]) for row in rows} == {
        ("none", "inf", "3"), ("dctdp", "8.0", "2"), ("dctdp", "200.0", "3"),
    }  # fmt: skip


def test_the_picture_is_a_readable_light_png_and_the_same_every_time(tmp_path: Path) -> None:
    lines = {"dctdp": [Point(8.0, 0.55, 0.02, 3), Point(200.0, 0.7, 0.01, 3)], "none": [Point(None, 0.9, None, 1)]}
    path = pictures_frontier.frontier(tmp_path / "a.png", lines, "epsilon of one image", 20.0)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert (pixels > 240).mean() > 0.5
    assert (pixels < 120).any()
    again = pictures_frontier.frontier(tmp_path / "b.png", lines, "epsilon of one image", 20.0)
    assert again.read_bytes() == path.read_bytes()
    pictures_frontier.frontier(tmp_path / "c.png", {"none": [Point(None, 0.9, None, 1)]}, "epsilon", 20.0)


@pytest.mark.parametrize("lines", [{}, {"a": []}, {"a": [Point(0.0, 0.5, None, 1)]}])
def test_what_cannot_be_drawn_is_refused(lines: dict[str, list[Point]], tmp_path: Path) -> None:
    with pytest.raises(checks.UserError):
        pictures_frontier.frontier(tmp_path / "never.png", lines, "epsilon", 20.0)


@pytest.mark.parametrize("unit", ["image", "identity"])
def test_budgets_of_private_training_are_one_line(unit: str) -> None:
    found = []
    for cell in grid.expand(("protection=none", f"privacy.{unit}.epsilon=4,8")).cells:
        budget = float(cell.values[f"privacy.{unit}.epsilon"])
        final = {"accuracy": budget / 10, "fold_sd": 0.0, "draw_sd": 0.0, "eer": 0.1}
        result = {"final": final, "statements": [statement(unit, budget)], "wall_seconds": 1.0}
        found.append(Outcome(cell, f"r-{cell.name}", "finished", 12, result))
    (points,) = report.lines(report.groups(found, unit), unit).values()
    assert sorted((one.epsilon, one.mean) for one in points) == [(4.0, 0.4), (8.0, 0.8)]
