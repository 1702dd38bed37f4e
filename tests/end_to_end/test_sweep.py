"""A sweep survives whatever ends it: it goes on without repeating, and one run's failure is that run's alone."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from fedveil import checks, randomness, runs
from fedveil.commands import simulate
from fedveil.commands.sweep import held, process, sweep, worker
from fedveil.federation.federation import Federation

TINY = (
    "data.identities=6", "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=3",
    "data.public_identities=6", "data.public_images=2", "data.pairs=40", "train.clients=2", "train.local.steps=1",
    "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0",
)  # fmt: skip
LONG = 120  # seconds that a busy machine may take


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    # A shell starts background jobs with interrupts ignored, and a child inherits that; here they must count.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from fedveil.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, "sweep", *words], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
    )  # fmt: skip


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + LONG
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)


def state(folder: Path, sweep_id: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "runs" / sweep_id / "sweep.json").read_text())
    return found


def begun(run: Path) -> bool:
    """Whether a run has finished its first round."""
    path = run / "checkpoint.npz"
    return path.is_file() and runs.unpack(path)[1]["round"] > 0


def test_interrupted_killed_and_continued_it_repeats_nothing(tmp_path: Path) -> None:
    words = (*TINY, "protection=none", "seed=1,2", "train.rounds=25", "evaluation.every=25", "tracking=none")
    made = sweep.prepare(words)
    command = (*words, "--workers", "1")
    folders = [tmp_path / "runs" / made.run_id(cell) for cell in made.grid.cells]
    first, second = (folder / "result.json" for folder in folders)

    process = start(tmp_path, *command)
    wait_for(lambda: begun(folders[0]), process)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert "goes on where it stopped" in shown
    assert "fedveil sweep" in shown
    assert state(tmp_path, made.sweep_id)["state"] == "interrupted"
    assert not first.exists()

    process = start(tmp_path, *command)
    wait_for(lambda: first.is_file() and begun(folders[1]), process)
    process.kill()
    process.communicate(timeout=LONG)
    time.sleep(0.5)
    then = first.stat().st_mtime_ns, (folders[1] / "checkpoint.npz").stat().st_mtime_ns
    assert "resuming after round" in (folders[0] / "worker.log").read_text()
    assert not second.exists()
    time.sleep(1.0)
    assert then == (first.stat().st_mtime_ns, (folders[1] / "checkpoint.npz").stat().st_mtime_ns)  # no orphan works on

    process = start(tmp_path, *command)
    shown, _ = process.communicate(timeout=2 * LONG)
    assert process.returncode == 0, shown
    assert first.stat().st_mtime_ns == then[0]
    assert "resuming after round" in (folders[1] / "worker.log").read_text()
    assert state(tmp_path, made.sweep_id)["state"] == "finished"
    alone = Federation.of([*words[:-4], "seed=2", *words[-3:], "engine=inline", f"runs.root={tmp_path / 'alone'}",
                         f"vault.root={tmp_path / 'alone-vault'}"])  # fmt: skip
    expected = simulate.simulate(alone, "uninterrupted", "plain")
    assert json.loads(second.read_text())["model_sha256"] == expected["model_sha256"]


@pytest.mark.filterwarnings("ignore")  # MLflow's own, when its store is opened
def test_failures_are_listed_and_the_rest_is_tracked_below_one_parent(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    words = (
        *TINY, "data=procedural,folder", f"data.root={tmp_path / 'nowhere'}", "data.evaluation=procedural",
        "protection=none", "train.rounds=1", "tracking.log_model=false",
    )  # fmt: skip
    process = start(tmp_path, *words, "--name", "mixed", "--json", "out.json", "--workers", "2")
    shown, _ = process.communicate(timeout=2 * LONG)
    assert process.returncode == 1, shown
    assert "1 of 2 runs failed" in shown
    assert "nowhere" in shown.partition("runs failed")[2]
    assert max(len(line) for line in shown.splitlines() if "[" not in line and "/" not in line) <= 80
    folder = tmp_path / "runs" / "sweep-mixed"
    assert (folder / "frontier.png").read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))
    assert sorted(row["state"] for row in rows) == ["failed", "finished"]
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["groups"]) == 1

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedveil").experiment_id
    tracked = {run.data.tags["fedveil.run_id"]: run for run in client.search_runs([experiment])}
    parent = tracked.pop("sweep-mixed")
    assert parent.info.status == "FAILED"
    assert parent.info.run_name == "sweep mixed"
    assert "nowhere" in parent.data.tags["mlflow.note.content"]
    assert [run.info.run_name for run in tracked.values()] == ["none data=procedural seed 1"]
    assert {run.data.tags["mlflow.parentRunId"] for run in tracked.values()} == {parent.info.run_id}
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"frontier.png", "frontier.csv", "runs.csv", "sweep.json"} <= artifacts


def test_a_sweep_runs_once_at_a_time(tmp_path: Path) -> None:
    made = sweep.prepare([f"runs.root={tmp_path}", "seed=1,2", "tracking=none"])
    with held.alone(made.sweep_id, made.root, made.folder), pytest.raises(checks.UserError, match="running already"):
        sweep.run(made, 1, lambda outcomes: None)


def ended(function: Callable[[], None], log: Path) -> int:
    """Run a function as a forked cell does its job; return the exit status."""

    def child(job: dict[str, str], log: Path, parent: int) -> NoReturn:
        worker._run = lambda job: function() or 0  # type: ignore[func-returns-value]
        worker.forked(job, log, parent)

    return process.Forked(child, {}, log, os.getpid()).wait(LONG)


@pytest.mark.skipif(not process.FORKS, reason="forking is safe on Linux alone")
def test_cells_share_no_randomness_and_one_that_crashes_is_alone(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)

    def draw() -> None:
        stream = randomness.SecretStream(randomness.os_key())
        keys = [stream.words(2).tolist(), random.random(), float(np.random.random())]
        print(json.dumps(keys))

    log = tmp_path / "worker.log"
    seen = []
    for _ in range(2):
        assert ended(draw, log) == 0
        seen.append(json.loads(log.read_text()))
    assert all(one != other for one, other in zip(*seen, strict=True))
    assert seen[0][1] != random.random()  # nor with the sweep itself
    assert ended(lambda: os.kill(os.getpid(), signal.SIGKILL), log) == -signal.SIGKILL
    assert ended(lambda: sys.exit("enough"), log) == 1
    assert process.Worker(process.Forked(print), log).reason(1) == "SystemExit: enough"


@pytest.mark.skipif(not process.FORKS, reason="forking is safe on Linux alone")
def test_where_forking_is_unsafe_a_cell_is_a_process_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = []
    for forks in (True, False):
        monkeypatch.setattr(process, "FORKS", forks)
        words = [*TINY, "protection=none", "seed=1,2", "train.rounds=1", "tracking=none", "model.width=8",
                 f"runs.root={tmp_path / str(forks)}", f"vault.root={tmp_path / f'vault {forks}'}"]  # fmt: skip
        outcomes = sweep.run(sweep.prepare(words), 2, lambda outcomes: None)
        assert [outcome.state for outcome in outcomes] == ["finished", "finished"]
        hashes.append([outcome.result["model_sha256"] for outcome in outcomes if outcome.result])
    assert hashes[0] == hashes[1]


def test_beside_a_gpu_a_cell_is_a_process_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.device, "existing", lambda: ["cpu", "cuda:0"])
    assert not process.forks()
    monkeypatch.setattr(process.device, "existing", lambda: ["cpu"])
    assert process.forks() == process.FORKS
