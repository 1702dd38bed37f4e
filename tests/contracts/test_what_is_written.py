"""Everything that a client-level run writes for others, item by item: public, noised, or evaluated on public pairs.

A new file, key or column fails here until somebody says what it is.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedveil import cli, runs, tracking
from fedveil.commands import simulate as command
from fedveil.commands.sweep import sweep
from fedveil.privacy.ledger import Ledger
from fedveil_clients import training

WORDS = [
    "evaluation.reference=false", "data.identities=12", "data.images_per_identity=3", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=2", "model.width=8",
    "model.embedding=8", "train.clients=6", "train.rounds=3", "train.local.steps=1", "train.batch_size=4",
    "evaluation.draws=1", "evaluation.bootstrap=0", "engine=inline", "protection=none", "privacy.client.epsilon=8",
    "train.cohort.rate=0.5", "tracking=none",
]  # fmt: skip

PUBLIC, NOISED, MEASURED, OPERATOR = "public", "noised and accounted", "of the released model on public pairs", "0600"

FILES = {
    "config.json": PUBLIC,
    "ledger.sqlite": PUBLIC,
    "result.json": MEASURED,
    "rounds.png": MEASURED,
    "roc.png": MEASURED,
    "faces.png": PUBLIC,
    "checkpoint.npz": OPERATOR,
    "vaults.json": OPERATOR,
    "operator.log": OPERATOR,
    "tracking.json": PUBLIC,  # which stores have the run
    ".lock": PUBLIC,  # empty
}

KEYS = {
    "run_id": PUBLIC,
    "config_hash": PUBLIC,
    "rounds.round": PUBLIC,
    "rounds.accuracy": MEASURED,
    "rounds.eer": MEASURED,
    "rounds.tar": MEASURED,
    "rounds.bytes_expected": PUBLIC,
    "rounds.statements": PUBLIC,
    "final": MEASURED,
    "collapsed": MEASURED,
    "statements": PUBLIC,
    "model_sha256": NOISED,
    "device": PUBLIC,  # the coordinator's own
    "noise_source": PUBLIC,
    "private": PUBLIC,
}


def names(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield dotted names down to those of KEYS."""
    if prefix.rstrip(".") in KEYS:
        yield prefix.rstrip(".")
    elif isinstance(tree, list):
        for one in tree:
            yield from names(one, prefix)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from names(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip(".")


def simulate(*words: str) -> runs.Run:
    assert cli.main(["simulate", *WORDS, *words, "--json", "o.json", "--plain"]) == 0
    return runs.Run(Path("runs"), json.loads(Path("o.json").read_text())["run_id"])


def test_every_file_is_named_and_what_is_not_public_is_the_operators_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = simulate()
    found = {path.name: path for path in run.folder.iterdir()}
    assert set(found) <= set(FILES)
    for name, path in found.items():
        assert (path.stat().st_mode & 0o077 == 0) == (FILES[name] == OPERATOR), name
    assert found[".lock"].read_bytes() == b""


def test_every_key_of_the_result_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = simulate()
    assert set(names(json.loads(run.result.read_text()))) <= set(KEYS)
    assert cli.main(["summary", run.run_id]) == 0
    shown = capsys.readouterr().out
    assert "memory" not in shown
    assert " s, " not in shown


def test_how_long_a_client_took_and_who_took_part_change_nothing_that_others_read(tmp_path, monkeypatch):
    """Equal coins and noise; one client is slow in one run: files, sizes and times are the same but for the name."""
    seen = []
    train_round = training.train_round
    for number, seconds in enumerate((0.0, 0.05)):
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.chdir(place)
        monkeypatch.setattr(
            training, "train_round", lambda *given, seconds=seconds: time.sleep(seconds) or train_round(*given)
        )
        monkeypatch.setattr(runs, "new_run_id", lambda label: "run")
        monkeypatch.setattr("fedveil.commands.simulate.runs.new_run_id", lambda label: "run")
        run = simulate("privacy.test_seed=3", "tracking=mlflow", "tracking.log_model=false")
        readable = [path for path in run.folder.iterdir() if path.stat().st_mode & 0o077]
        began = run.config.stat().st_mtime_ns
        assert {path.stat().st_mtime_ns for path in [*run.folder.iterdir(), run.folder]} == {began}
        ledger = [(row.status, row.event, row.note) for row in Ledger(run.ledger).rows()]
        seen.append(({path.name: path.stat().st_size for path in readable}, run.result.read_bytes(), ledger))
    assert seen[0] == seen[1]


def test_rows_of_rounds_carry_one_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = Ledger(simulate().ledger).rows()
    assert len({row.at for row in rows if row.note.startswith("round")}) == 1


@pytest.mark.parametrize("level", [True, False])
def test_the_tracker_is_told_to_hide_times_under_a_client_level_claim_alone(tmp_path, monkeypatch, level):
    monkeypatch.chdir(tmp_path)
    asked: list[bool] = []

    class Told(tracking.Tracker):
        def start(self, info: tracking.RunInfo) -> None:
            asked.append(info.hide_times)

    monkeypatch.setattr(tracking, "open_tracker", lambda *_: Told())
    simulate("tracking=mlflow", *([] if level else ["privacy.client=none"]))
    assert asked == [level]


@pytest.mark.parametrize("level", [True, False])
def test_nobody_else_sees_when_files_of_a_client_level_run_change(tmp_path, monkeypatch, level):
    monkeypatch.chdir(tmp_path)
    run = simulate(*([] if level else ["privacy.client=none"]))
    assert (run.folder.stat().st_mode & 0o077 == 0) == level
    assert run.root.stat().st_mode & 0o077 == 0  # fedveil made it; what was there before stays as it is


def test_no_reference_begins_when_a_client_level_run_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = []
    whole = command.simulate

    def simulated(federation, *given, **named):
        began.append(federation.settings.privacy.client)
        return whole(federation, *given, **named)

    monkeypatch.setattr(command, "simulate", simulated)
    monkeypatch.setattr(command, "has_reference", lambda federation: True)
    simulate()
    assert [budget is None for budget in began] == [True, False]


def test_a_sweep_starts_client_level_runs_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = sweep.prepare([*WORDS, "privacy.client.epsilon=8,none"])
    assert [cell.settings.privacy.client is None for cell in made.grid.cells] == [False, True]
    began = []

    def advance(swept, outcome, running, workers):
        began.append(outcome.cell.settings.privacy.client is None)
        return dataclasses.replace(outcome, state="failed", reason="not run here")

    monkeypatch.setattr(sweep, "_advance", advance)
    monkeypatch.setattr(sweep.process, "warm", lambda settings: None)
    sweep.run(made, 1, lambda outcomes: None)
    assert began == [True, False]


@pytest.mark.parametrize("leak", ["wall_seconds", "cohort"])
def test_a_new_key_is_caught(leak):
    assert not set(names({"run_id": "x", leak: 1.0})) <= set(KEYS)
