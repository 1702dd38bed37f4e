"""A study of blocks is the union of their grids, and the words of the command line replace what each says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedveil import checks, config
from fedveil.commands.sweep import grid, report
from fedveil.commands.sweep.sweep import Outcome, Sweep
from fedveil.configuration import files
from fedveil.configuration.words import later

STUDY = """
base: {train.rounds: 2, train.lr: 0.1, data.identities: 30}
grid: {seed: [1, 2]}
blocks:
  people:
    base: {protection: none, train.lr: 0.5, privacy.identity.sampling_rate: 0.5}
    grid: {privacy.identity.epsilon: [8, inf]}
  copies:
    base: {protection.fit_steps: 5}
    grid: {protection: [none, dctdp], protection.total_epsilon: [8, 200]}
"""
BASE = {"train.rounds": "2", "train.lr": "0.1", "data.identities": "30"}
PEOPLE = {"protection": "none", "train.lr": "0.5", "privacy.identity.sampling_rate": "0.5"}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one's own beside the others."""
    for path in files.folder().rglob("*.yaml"):
        place = tmp_path / "configs" / path.relative_to(files.folder())
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_bytes(path.read_bytes())
    monkeypatch.setattr(files, "folder", lambda: tmp_path / "configs")
    study = tmp_path / "configs" / "study" / "own.yaml"
    study.write_text(STUDY)
    return study


def single(*parts: dict[str, str]) -> str:
    return config.digest(config.load([f"{key}={value}" for key, value in later(*parts).items()]))[:10]


def test_cells_are_the_union_over_blocks_each_what_its_words_say() -> None:
    expected = set()
    for seed in ("1", "2"):
        for epsilon in ("8", "inf"):
            expected.add(single(BASE, PEOPLE, {"seed": seed, "privacy.identity.epsilon": epsilon}))
        expected.add(single(BASE, {"seed": seed, "protection": "none"}))
        for epsilon in ("8", "200"):
            copies = {"seed": seed, "protection": "dctdp", "protection.total_epsilon": epsilon}
            expected.add(single(BASE, copies, {"protection.fit_steps": "5"}))
    made = grid.expand(["study=own"])
    assert {cell.name for cell in made.cells} == expected
    assert [cell.settings.seed for cell in made.cells] == [1] * 5 + [2] * 5
    assert [cell.label for cell in made.cells[:5]] == [
        "people: none epsilon=8 seed=1", "people: none epsilon=inf seed=1", "copies: none seed=1",
        "copies: dctdp total_epsilon=8 seed=1", "copies: dctdp total_epsilon=200 seed=1",
    ]  # fmt: skip
    assert [*made.axes] == ["block", "seed", "protection", "privacy.identity.epsilon", "protection.total_epsilon"]


def test_a_word_replaces_what_blocks_say_of_its_key_and_adds_it_to_no_other() -> None:
    made = grid.expand(["study=own", "privacy.identity.epsilon=4", "seed=7"])
    assert {cell.settings.seed for cell in made.cells} == {7}
    budgets = {cell.label: cell.settings.privacy.identity for cell in made.cells}
    assert {label: budget and budget.epsilon for label, budget in budgets.items()} == {
        "people: none": 4.0, "copies: none": None, "copies: dctdp total_epsilon=8": None,
        "copies: dctdp total_epsilon=200": None,
    }  # fmt: skip


def test_a_word_that_no_block_says_is_everybodys() -> None:
    made = grid.expand(["study=own", "train.batch_size=8", "train.lr=0.2"])
    assert {(cell.settings.train.batch_size, cell.settings.train.lr) for cell in made.cells} == {(8, 0.2)}


def test_equal_configurations_of_two_blocks_run_once() -> None:
    made = grid.expand(["study=own", "protection=none", "privacy.identity=none", "train.lr=0.1", "seed=1"])
    assert [cell.label for cell in made.cells] == ["people"]
    (note,) = made.notes
    assert "3 combinations are 1 runs" in note


def test_data_of_another_kind_leaves_out_what_the_study_says_of_its_own() -> None:
    made = grid.expand(["study=own", "data=folder", "data.root=faces", "data.evaluation=procedural", "seed=1",
                        "partition.max_identities=50", "protection=none", "privacy.identity=none"])  # fmt: skip
    assert {cell.settings.data.name for cell in made.cells} == {"folder"}
    with pytest.raises(checks.UserError, match=r"data\.identities"):
        grid.expand(["study=own", "data=folder", "data.root=faces", "data.identities=5"])


def test_a_setting_that_does_nothing_in_any_block_is_refused() -> None:
    with pytest.raises(checks.UserError, match=r"privacy\.client\.clip=1 does nothing here"):
        grid.expand(["study=own", "privacy.client.clip=1"])


def outcomes(words: list[str]) -> list[Outcome]:
    found = []
    for cell in grid.expand(words).cells:
        budget = cell.settings.privacy.identity
        epsilon = None if budget is None or budget.epsilon == float("inf") else budget.epsilon
        kept = cell.settings.protection.settings.get("total_epsilon")
        statements = [
            {"unit": unit, "epsilon": value, "delta": 0.0, "relation": "r", "view": "all", "meaningful": False}
            for unit, value in (("identity", epsilon), ("image", kept))
        ]
        final = {"accuracy": 0.7, "fold_sd": 0.0, "draw_sd": 0.0, "eer": 0.1}
        found.append(Outcome(cell, f"r-{cell.name}", "finished", 2, result={
            "final": final, "statements": statements, "wall_seconds": 1.0,
        }))  # fmt: skip
    return found


def test_every_unit_has_its_own_frontier_of_its_own_blocks(tmp_path: Path) -> None:
    words = ["study=own", f"runs.root={tmp_path}"]
    found = outcomes(words)
    assert report.units_of([one.cell for one in found]) == {"people": ("identity",), "copies": ("image",)}
    frontiers = report.frontiers(found)
    assert {unit: [grid.label(group.values) for group in groups] for unit, groups in frontiers.items()} == {
        "identity": ["people: none epsilon=8", "people: none epsilon=inf"],
        "image": ["copies: none", "copies: dctdp total_epsilon=8", "copies: dctdp total_epsilon=200"],
    }
    lines = report.lines(frontiers["image"], "image")
    assert {name: [point.epsilon for point in line] for name, line in lines.items()} == {
        "copies: none": [None], "copies: dctdp": [8.0, 200.0],
    }  # fmt: skip
    assert [point.epsilon for point in report.lines(frontiers["identity"], "identity")["people: none"]] == [8.0, None]
    names = [path.name for path in report.write(Sweep("sweep-x", tuple(words), grid.expand(words)), found)]
    assert names == ["runs.csv", "frontier.csv", "frontier-image.png", "frontier-identity.png"]


def test_two_budgets_swept_over_each_other_have_a_frontier_each() -> None:
    cells = grid.expand(["privacy.client.epsilon=1,8", "privacy.client.clip=1", "privacy.image.epsilon=8,inf",
                         "protection=none", "privacy.client.delta=1e-6", "train.clients=100"]).cells  # fmt: skip
    assert report.units_of(cells) == {"": ("client", "image")}
    cells = grid.expand(["privacy.client.epsilon=8", "privacy.client.clip=1", "seed=1,2", "protection=none"]).cells
    assert report.units_of(cells) == {"": ("client",)}
