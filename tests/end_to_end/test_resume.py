"""A run that is killed anywhere and taken up again ends with the same model; Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil import cli, runs
from fedveil_strategies import observers

SMALL = (
    "evaluation.reference=false", "data.identities=9", "data.images_per_identity=4", "data.evaluation_identities=6",
    "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4", "data.public_images=4",
    "protection.fit_steps=0", "protection.init=zeros", "model.width=8", "model.embedding=16", "train.clients=4",
    "train.rounds=4", "train.local.steps=2", "train.batch_size=6", "evaluation.draws=1", "evaluation.bootstrap=0",
    "train.cohort.rate=0.7", "privacy.test_seed=3",
)  # fmt: skip
TWO = "engine.workers=2"
OFF = "tracking=none"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])  # pictures cost more than these runs
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(observers, "draw", lambda *_: [])
        assert cli.main(["simulate", *SMALL, TWO, OFF, "--json", "found.json"]) == 0
    return json.loads((folder / "found.json").read_text())


def result_of(run_id):
    return json.loads(Path("runs", run_id, "result.json").read_text())


def done_rounds(run_id: str) -> int:
    path = Path("runs", run_id, "checkpoint.npz")
    return int(runs.unpack(path)[1]["round"]) if path.exists() else 0


# A shell starts background jobs with interrupts ignored, and a child inherits that; here they must count.
CLI = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
CLI += "from fedveil.cli import main; sys.exit(main())"


def started(*words: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-c", CLI, "simulate", "--plain", *SMALL, TWO, *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().split()[1]
    return process, run_id


def wait_until(condition, process, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the run did not get that far"
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")


@needs_proc
@pytest.mark.parametrize("point", ["drawing", 1, 3])
def test_killed_and_resumed_equals_uninterrupted(uninterrupted, point, children, alive):
    process, run_id = started(OFF)
    if point == "drawing":  # the first clients open their data
        wait_until(lambda: Path(".fedveil/vault/ledger.sqlite").exists(), process)
    else:
        wait_until(lambda: done_rounds(run_id) >= point, process)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(alive(worker) for worker in workers)
    assert cli.main(["simulate", "--resume", run_id]) == 0
    found = result_of(run_id)
    assert found["model_sha256"] == uninterrupted["model_sha256"]
    assert found["final"] == uninterrupted["final"]
    assert [entry["round"] for entry in found["rounds"]] == [1, 2, 3, 4]
    assert [e["accuracy"] for e in found["rounds"]] == [e["accuracy"] for e in uninterrupted["rounds"]]


@needs_proc
def test_an_interrupt_prints_how_to_go_on_and_leaves_no_process(uninterrupted, children, alive):
    process, run_id = started(OFF)
    wait_until(lambda: done_rounds(run_id) >= 1, process)
    workers = children(process.pid)
    assert workers
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"fedveil simulate --resume {run_id}" in errors
    assert "Traceback" not in errors
    assert not any(alive(worker) for worker in workers)
    assert cli.main(["simulate", "--resume", run_id]) == 0
    assert result_of(run_id)["model_sha256"] == uninterrupted["model_sha256"]


def interrupted(monkeypatch, method, after, *words):
    """Run in this process until an observer of round `after` is told, as if Ctrl-C came there; return the run's id."""
    original = getattr(observers.Watch, method)

    def stop(self, report):
        if report.round == after:
            raise KeyboardInterrupt
        original(self, report)

    with monkeypatch.context() as patch:
        patch.setattr(observers.Watch, method, stop)
        assert cli.main(["simulate", *SMALL, *words]) == 130
    return next(Path("runs").glob("2*")).name


@pytest.mark.parametrize("method", ["evaluate", "checkpoint"])
def test_interrupted_between_a_rounds_end_and_its_checkpoint(uninterrupted, monkeypatch, method):
    run_id = interrupted(monkeypatch, method, 3, OFF, "engine=inline")
    assert done_rounds(run_id) == 2
    assert cli.main(["simulate", "--resume", run_id]) == 0
    assert result_of(run_id)["model_sha256"] == uninterrupted["model_sha256"]


@pytest.mark.filterwarnings("ignore")  # MLflow's own, when its store is opened
def test_a_round_whose_tracking_was_interrupted_is_tracked_on_resume(uninterrupted, monkeypatch):
    pytest.importorskip("mlflow")
    run_id = interrupted(monkeypatch, "track", 2, "tracking.log_model=false", "engine=inline")
    assert status_of(run_id).info.status == "KILLED"
    assert cli.main(["simulate", "--resume", run_id]) == 0
    assert result_of(run_id)["model_sha256"] == uninterrupted["model_sha256"]
    tracked = status_of(run_id)
    assert tracked.info.status == "FINISHED"
    history = client().get_metric_history(tracked.info.run_id, "accuracy")
    found, result = {entry.step: entry.value for entry in history}, result_of(run_id)
    wanted = {entry["round"]: entry["accuracy"] for entry in result["rounds"]}
    wanted[len(result["rounds"]) + 1] = result["final"]["accuracy"]  # the final evaluation is behind the rounds
    assert found == pytest.approx(wanted, abs=1e-8)
    assert len(history) == len(wanted)


def client():
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{Path('runs/mlflow.db').resolve()}")


def status_of(run_id):
    (found,) = client().search_runs(["1"], f"tags.`fedveil.run_id` = '{run_id}'")
    return found


def test_what_a_resumed_run_may_and_may_not_change(uninterrupted, monkeypatch, capsys):
    run_id = interrupted(monkeypatch, "track", 2, OFF, "engine=inline")
    capsys.readouterr()
    for words, named in [
        (["train.rounds=9"], "train.rounds=9 (was 4)"),
        (["protection=none"], "protection.name=none (was dctdp)"),
        (["seed=2", "train.lr=0.5"], "train.lr=0.5"),
        (["study=quick"], "train.rounds=3 (was 4)"),
    ]:
        assert cli.main(["simulate", *words, "--resume", run_id]) == 2
        refused = capsys.readouterr().err
        assert named in refused
        assert refused.count("\n") == 1
    assert done_rounds(run_id) == 2
    # Equal words, another engine and another tracker are no change.
    assert cli.main(["simulate", *SMALL, "engine=pool", TWO, OFF, "--resume", run_id]) == 0
    assert result_of(run_id)["model_sha256"] == uninterrupted["model_sha256"]
    before = Path("runs", run_id, "result.json").stat().st_mtime_ns
    capsys.readouterr()
    assert cli.main(["simulate", "--resume", run_id]) == 0  # a finished run just reports again
    shown = capsys.readouterr().out
    assert uninterrupted["model_sha256"] in shown
    assert "4/4" not in shown
    assert Path("runs", run_id, "result.json").stat().st_mtime_ns == before


def test_a_damaged_checkpoint_and_an_unknown_run_are_refused_by_name(monkeypatch, capsys):
    run_id = interrupted(monkeypatch, "track", 1, OFF, "engine=inline")
    path = Path("runs", run_id, "checkpoint.npz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    assert cli.main(["simulate", "--resume", run_id]) == 2
    assert "checkpoint.npz is not a readable" in capsys.readouterr().err
    assert cli.main(["simulate", "--resume", run_id[:-1]]) == 2
    assert f"Did you mean '{run_id}'" in capsys.readouterr().err


def test_a_checkpoint_holds_everything_a_round_starts_from(monkeypatch):
    run_id = interrupted(monkeypatch, "track", 2, OFF, "engine=inline")
    arrays, meta = runs.unpack(Path("runs", run_id, "checkpoint.npz"))
    kinds = {name.partition("/")[0] for name in arrays}
    assert {"tensor", "optimiser", "state"} <= kinds
    assert meta["round"] == len(meta["history"]) == 2
    assert all(np.isfinite(value).all() for value in arrays.values())
