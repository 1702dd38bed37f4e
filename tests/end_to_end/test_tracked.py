"""What MLflow holds of a run is the same whether it was told at once or later, and tells nothing that it should not."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedveil import checks, cli, readback, runs
from fedveil.commands import ui
from fedveil.tracking import _mlflow, _remote, mirror
from fedveil_strategies import observers

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore")  # a tracker's own deprecations

TINY = (
    "data.identities=8", "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=3",
    "data.public_identities=6", "data.public_images=2", "data.pairs=40", "train.clients=4", "train.rounds=3",
    "train.local.steps=1", "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0", "model.width=8",
    "evaluation.reference=false", "engine=inline",
)  # fmt: skip
FIXED = ("protection.fit_steps=0", "privacy.test_seed=1")
HIDDEN = ("protection=none", "train.cohort.rate=0.5", "privacy.client.epsilon=8", "privacy.client.delta=1e-5")
PLACES = ("tracking.", "runs.", "vault.")
START = {"round": 0, "history": []}
WORD = "s3cretword"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell MLflow in this process, where a test can make it fail."""
    monkeypatch.setattr(_remote, "Remote", _mlflow.MlflowTracker)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


def store_at(path: Path, blank: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(blank, path)
    return f"sqlite:///{path.resolve()}"


def ended(words: list[str] | tuple[str, ...]) -> str:
    assert cli.main(["simulate", "--plain", *words, "--json", "out.json"]) == 0
    return str(json.loads(Path("out.json").read_text())["run_id"])


def page(uri: str, run_id: str, experiment: str = "fedveil") -> dict[str, Any]:
    """Return everything that MLflow shows of a run, without times and MLflow's own ids."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id], f"tags.`fedveil.run_id` = '{run_id}'")
    history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    tags = {key: value for key, value in run.data.tags.items() if key not in ("fedveil.model_uri", "mlflow.user")}
    return {
        "status": run.info.status,
        "params": run.data.params,
        "metrics": {key: sorted((one.step, one.value) for one in points) for key, points in history.items()},
        "tags": tags,
        "artifacts": sorted(item.path for item in client.list_artifacts(run.info.run_id)),
        "model": "fedveil.model_uri" in run.data.tags,
        "models": len(client.search_logged_models([found.experiment_id], f"source_run_id='{run.info.run_id}'")),
    }


def comparable(shown: dict[str, Any]) -> dict[str, Any]:
    """Return a page without what differs between two runs of equal results: ids, places, durations, dates."""
    own = {"fedveil.run_id", "mlflow.runName", "fedveil.ledger_head"}
    metrics = {key: value for key, value in shown["metrics"].items() if key not in ("seconds", "wall_seconds")}
    params = {key: value for key, value in shown["params"].items() if not key.startswith(PLACES)}
    tags = {key: value for key, value in shown["tags"].items() if key not in own}
    return {**shown, "metrics": metrics, "params": params, "tags": tags}


def complete(run_id: str) -> list[str]:
    path = Path("runs", run_id, "tracking.json")
    return list(json.loads(path.read_text())["complete"]) if path.exists() else []


@pytest.fixture
def live(blank: Path) -> dict[str, Any]:
    uri = store_at(Path("live/mlflow.db"), blank)
    shown = page(uri, ended([*TINY, *FIXED, f"tracking.uri={uri}", "vault.root=live/vault", "runs.root=live/runs"]))
    assert shown["status"] == "FINISHED"
    assert shown["models"] == 1
    assert [step for step, _ in shown["metrics"]["accuracy"]] == [1, 2, 3, 4]  # and the final evaluation
    assert {"config.json", "result.json", "ledger.sqlite", "roc.png", "rounds.png"} <= {*shown["artifacts"]}
    return comparable(shown)


def test_what_a_failing_server_missed_is_sent_later_and_once(
    live: dict[str, Any], blank: Path, here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = store_at(Path("store/mlflow.db"), blank)
    words = [*TINY, *FIXED, f"tracking.uri={uri}"]
    real = _mlflow.MlflowTracker.log_round

    def failing(self: _mlflow.MlflowTracker, round: int, metrics: Any) -> None:  # noqa: A002
        if round == 2:
            raise ConnectionError("no answer")
        real(self, round, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(_mlflow.MlflowTracker, "log_round", failing)
        run_id = ended(words)
    assert f"`fedveil simulate --resume {run_id}` or `fedveil ui` sends later" in capsys.readouterr().err
    assert complete(run_id) == []
    assert [step for step, _ in page(uri, run_id)["metrics"]["accuracy"]] == [1]
    assert cli.main(["simulate", "--resume", run_id]) == 0
    assert f"sent to {uri}: {run_id}" in " ".join(capsys.readouterr().out.split())
    shown = page(uri, run_id)
    assert comparable(shown) == live
    assert len(complete(run_id)) == 1
    assert cli.main(["simulate", "--resume", run_id]) == 0  # nothing is missing any more
    assert "sent to" not in capsys.readouterr().out
    for damage in (None, b"", b'{"half": ', b'{"parent": 3, "complete": []}', b"\xff"):
        path = Path("runs", run_id, "tracking.json")
        path.unlink() if damage is None else path.write_bytes(damage)
        assert cli.main(["simulate", "--resume", run_id]) == 0  # the store is asked, and has everything
        assert capsys.readouterr().err.count("left out: ") == (damage is not None)
        assert page(uri, run_id) == shown


def test_a_run_made_without_its_store_is_sent_by_the_pages(
    live: dict[str, Any], blank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []
    monkeypatch.setattr(ui, "_serve", lambda *a: served.append(a) or 0)
    uri = f"sqlite:///{Path('away/mlflow.db').resolve()}"
    Path("away").write_text("in the way")
    run_id = ended([*TINY, *FIXED, f"tracking.uri={uri}"])
    off = ended([*TINY, *FIXED, "tracking=none", "vault.root=other"])
    assert "tracking is off" in capsys.readouterr().err
    Path("away").unlink()
    store_at(Path("away/mlflow.db"), blank)
    Path("runs/damaged").mkdir()
    Path("runs/damaged/result.json").write_text('{"half": ')
    shutil.copytree(f"runs/{run_id}", "runs/foreign")
    Path("runs/foreign/config.json").write_text("[]")
    assert cli.main(["ui", f"tracking.uri={uri}"]) == 0
    shown = capsys.readouterr()
    assert f"sent to {uri}: {run_id}" in " ".join(shown.out.split())
    assert off not in shown.out
    assert "left out: runs/damaged/result.json" in shown.err
    assert "left out: runs/foreign/config.json" in shown.err
    assert comparable(page(uri, run_id)) == live
    assert len(served) == 1
    assert cli.main(["ui", f"tracking.uri={uri}"]) == 0
    assert "sent to" not in capsys.readouterr().out


def test_an_interrupted_run_tells_all_that_was_missed_when_it_goes_on(
    live: dict[str, Any], blank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{Path('away/mlflow.db').resolve()}"
    Path("away").write_text("in the way")

    def stop(self: observers.Watch, report: Any) -> None:
        if report.round == 2:
            raise KeyboardInterrupt
        observers.mirror.rounds(self.session.tracker, self.history, last_alone=True)

    with monkeypatch.context() as patch:
        patch.setattr(observers.Watch, "track", stop)
        assert cli.main(["simulate", *TINY, *FIXED, f"tracking.uri={uri}"]) == 130
    (run_id,) = [path.parent.name for path in Path("runs").glob("*/config.json")]
    Path("away").unlink()
    store_at(Path("away/mlflow.db"), blank)
    assert cli.main(["simulate", "--resume", run_id]) == 0
    assert comparable(page(uri, run_id)) == live


def test_a_run_that_cannot_be_told_has_ended_all_the_same(
    blank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = store_at(Path("store/mlflow.db"), blank)

    def damaged(run: runs.Run) -> tuple[dict[str, Any], dict[str, Any]]:
        if run.result.exists():
            raise checks.UserError("the checkpoint is damaged")
        return {}, START

    with monkeypatch.context() as patch:
        patch.setattr(mirror.readback, "checkpoint_of", damaged)
        run_id = ended([*TINY, *FIXED, f"tracking.uri={uri}"])
    assert f"Warning: {run_id} is tracked in part: the checkpoint is damaged" in capsys.readouterr().err
    assert page(uri, run_id)["status"] == "FINISHED"
    assert complete(run_id) == []


def test_a_warm_start_is_told_later_as_well(blank: Path) -> None:
    uri = store_at(Path("store/mlflow.db"), blank)
    run_id = ended([*TINY, "protection=none", "train.warm_start=public", "train.warm_steps=1", "tracking=none"])
    before = readback.result_of(runs.open_run(Path("runs"), run_id))["warm_start"]
    assert cli.main(["simulate", "--resume", run_id, "tracking=mlflow", f"tracking.uri={uri}"]) == 0
    accuracy = page(uri, run_id)["metrics"]["accuracy"]
    assert accuracy[0] == (0, before["accuracy"])
    assert [step for step, _ in accuracy] == [0, 1, 2, 3, 4]


# --- times -----------------------------------------------------------------------------------------------------------


def times_of(database: Path) -> list[tuple[str, float]]:
    """Return (table.column, seconds since 1970) of everything in a database that is or could be a time of our days."""
    seen = []
    with contextlib.closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        for table in tables:
            columns = [column[1] for column in connection.execute(f'PRAGMA table_info("{table}")')]
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for column, value in zip(columns, row, strict=True):
                    place = f"{table}.{column}"
                    numbers = [value] if isinstance(value, (int, float)) else []
                    if isinstance(value, str):
                        numbers = [int(text) for text in re.findall(r"(?<![0-9a-f])1[6-9]\d{8,11}(?![0-9a-f])", value)]
                    for number in numbers:
                        for unit in (1, 1e3, 1e6, 1e9):
                            if 1.6e9 < number / unit < 3e9:
                                seen.append((place, number / unit))
    return seen


def test_beside_a_client_level_claim_no_time_but_the_start_is_told(blank: Path) -> None:
    store_at(Path("runs/mlflow.db"), blank)
    made_before = {place for place, _ in times_of(Path("runs/mlflow.db"))}
    assert made_before <= {"experiments.creation_time", "experiments.last_update_time"}
    begun = time.time()
    run_id = ended([*TINY, *HIDDEN])
    took = time.time() - begun
    started = int(Path("runs", run_id, "config.json").stat().st_mtime * 1000) / 1000
    assert began_at(run_id) == pytest.approx(started, abs=1e-3)
    told = [(place, at) for place, at in times_of(Path("runs/mlflow.db")) if not place.startswith("experiments.")]
    assert {place for place, _ in told} == {
        "runs.start_time", "runs.end_time", "metrics.timestamp", "latest_metrics.timestamp"
    }  # fmt: skip
    assert took > 0.2
    assert {round((at - started) * 1000) for _, at in told} == {0, 1, 2, 3, 4}
    files = [*Path("runs/mlartifacts").rglob("*")]
    assert len(files) > 10
    assert {round((path.stat().st_mtime - started) * 1000) for path in files} == {0}
    shown = page(f"sqlite:///{Path('runs/mlflow.db').resolve()}", run_id)
    assert "wall_seconds" not in shown["metrics"]
    assert "seconds" not in shown["metrics"]
    assert shown["models"] == 0
    assert "times that tell how long" in shown["tags"]["fedveil.model_uri.why"]


def began_at(run_id: str) -> float:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{Path('runs/mlflow.db').resolve()}")
    (run,) = client.search_runs(["1"], f"tags.`fedveil.run_id` = '{run_id}'")
    return float(run.info.start_time) / 1000


def test_the_weights_of_a_client_level_run_load_and_hold_no_time_either(blank: Path) -> None:
    uri = store_at(Path("runs/mlflow.db"), blank)
    run_id = ended([*TINY, *HIDDEN])
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs(["1"], f"tags.`fedveil.run_id` = '{run_id}'")
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(run.data.tags["fedveil.model_uri"])
    assert loaded.predict(torch.zeros(2, 3, 32, 32).numpy()).shape[0] == 2
    folder = Path("runs/mlartifacts", run.info.run_id, "artifacts/backbone")
    text = "".join(path.read_text() for path in folder.iterdir() if path.is_file())
    said = re.findall(r"20\d\d-\d\d-\d\d[T ][\d:.]+", text)
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(run.info.start_time / 1000))
    assert [at[: len(began)] for at in said] == [began]


def test_later_and_resumed_a_client_level_run_still_tells_no_time(
    blank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = store_at(Path("store/mlflow.db"), blank)
    run_id = ended([*TINY, *HIDDEN, "tracking=none"])
    time.sleep(1.1)
    assert cli.main(["simulate", "--resume", run_id, "tracking=mlflow", f"tracking.uri={uri}"]) == 0
    Path("runs", run_id, "tracking.json").unlink()
    assert cli.main(["simulate", "--resume", run_id, "tracking=mlflow", f"tracking.uri={uri}"]) == 0
    started = Path("runs", run_id, "config.json").stat().st_mtime
    told = [at for place, at in times_of(Path("store/mlflow.db")) if not place.startswith("experiments.")]
    assert max(told) - started < 0.1


def test_a_sweep_of_client_level_runs_tells_no_durations_and_follows_mlflows_variables(
    blank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = store_at(Path("store/mlflow.db"), blank)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "grid")
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("grid", Path("artifacts").resolve().as_uri())
    assert cli.main(["sweep", *TINY, *HIDDEN, "seed=1,2", "--name", "s", "--workers", "1"]) == 0
    found = client.search_runs([experiment])
    assert sum("mlflow.parentRunId" in run.data.tags for run in found) == 2
    assert not Path("runs/mlflow.db").exists()
    told = [(place, at) for place, at in times_of(Path("store/mlflow.db")) if not place.startswith("experiments.")]
    first = min(at for _, at in told)
    assert len([place for place, _ in told if place == "runs.start_time"]) == 3
    assert max(at for _, at in told) - first < 0.01
    (table,) = Path("artifacts").rglob("runs.csv")
    assert "seconds" in table.read_text()
    assert not re.findall(r",\d+\.\d+,$", table.read_text(), re.MULTILINE)
    inside = [path for run in found for path in (Path("artifacts") / run.info.run_id).rglob("*")]
    assert {round(path.stat().st_mtime - first) for path in inside} == {0}


# --- where -----------------------------------------------------------------------------------------------------------


def test_mlflows_own_variables_name_the_store_of_a_run_and_its_pages(
    blank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, other = store_at(Path("store/mlflow.db"), blank), f"sqlite:///{Path('other.db').resolve()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from outside")
    run_id = ended([*TINY, *FIXED])
    said = " ".join(capsys.readouterr().out.split())
    assert f"tracked at {uri} (MLFLOW_TRACKING_URI), experiment from outside (MLFLOW_EXPERIMENT_NAME)" in said
    assert page(uri, run_id, "from outside")["status"] == "FINISHED"
    assert not Path("runs/mlflow.db").exists()
    served: list[Any] = []

    def serve(command: list[str], environment: dict[str, str], *_: Any) -> int:
        served.append((command, environment["MLFLOW_BACKEND_STORE_URI"]))
        return 0

    monkeypatch.setattr(ui, "_serve", serve)
    assert cli.main(["ui"]) == 0
    assert served[0][1] == uri
    assert f"tracked at {uri} (MLFLOW_TRACKING_URI)" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    run_id = ended([*TINY, *FIXED, f"tracking.uri={uri}", "tracking.experiment=chosen", "runs.root=again"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"tracked at {uri} (tracking.uri; MLFLOW_TRACKING_URI is not used)" in said
    assert "experiment chosen (tracking.experiment; MLFLOW_EXPERIMENT_NAME is not used)" in said
    assert page(uri, run_id, "chosen")["status"] == "FINISHED"
    assert not Path("other.db").exists()
    ended([*TINY, *FIXED, "tracking=none", "runs.root=unseen"])
    assert "tracked at" not in capsys.readouterr().out


# --- secrets ---------------------------------------------------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    """Refuses everybody, and remembers how they said who they are."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(str(self.headers.get("Authorization")))
        self.send_error(403, "go away")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    Server.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made.server_address[1], Server.seen
        made.shutdown()


def told(*words: str, **variables: str) -> str:
    """Return all that a command of its own process printed."""
    quiet = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "fedveil.cli", *words], capture_output=True, text=True,
        env={**os.environ, **quiet, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_password_reaches_the_server_and_nothing_else(server: tuple[int, list[str]]) -> None:
    """Every file and every line of output is looked through, of a run, a sweep with its workers, and a resumed run."""
    port, seen = server
    address = f"http://user:{WORD}@127.0.0.1:{port}/?token={WORD}2"
    login = "Basic " + base64.b64encode(f"user:{WORD}".encode()).decode()
    shown = told("simulate", "--plain", *TINY, *FIXED, f"tracking.uri={address}", "--json", "o.json")
    run_id = json.loads(Path("o.json").read_text())["run_id"]
    assert "tracking is off" in shown
    assert login in seen
    seen.clear()
    outputs = [shown, told("simulate", "--resume", run_id)]
    assert "is kept without its secret: give tracking.uri=... again, or set MLFLOW_TRACKING_URI" in outputs[-1]
    assert seen == []
    outputs.append(told("simulate", "--resume", run_id, MLFLOW_TRACKING_URI=address))
    assert login in seen
    seen.clear()
    outputs.append(told("sweep", *TINY, "protection=none", "seed=1,2", f"tracking.uri={address}"))
    assert seen.count(login) >= 3  # the sweep and both of its workers
    outputs.append(told("bundle", "app", "study=quick", f"tracking.uri={address}"))
    assert not [line for text in outputs for line in text.splitlines() if WORD in line]
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert len(files) > 30
    assert not [path for path in files if WORD.encode() in path.read_bytes() or WORD in str(path)]
    assert not [path for path in files if login.split()[1].encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_real_server_that_was_down_gets_everything_later_and_no_password(blank: Path) -> None:
    """MLflow itself prints a run's address when it ends, and keeps where artefacts are."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://user:{WORD}@127.0.0.1:{port}"
    outputs = [told("simulate", "--plain", *TINY, *HIDDEN, f"tracking.uri={address}", "--json", "o.json")]
    run_id = json.loads(Path("o.json").read_text())["run_id"]
    folder = Path("server").resolve()
    uri = store_at(folder / "mlflow.db", blank)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    with Path("server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **quiet},
                                   start_new_session=True)  # fmt: skip
    try:
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), contextlib.closing(socket.create_connection(("127.0.0.1", port), 1)):
                break
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.2)
        outputs.append(told("simulate", "--resume", run_id, f"tracking.uri={address}"))
        outputs.append(told("simulate", "--plain", *TINY, *FIXED, f"tracking.uri={address}"))
        shown = page(f"http://127.0.0.1:{port}", run_id)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert f"sent to http://***@127.0.0.1:{port}: {run_id}" in outputs[1]
    assert shown["status"] == "FINISHED"
    assert [step for step, _ in shown["metrics"]["accuracy"]] == [1, 2, 3, 4]  # and the final evaluation
    assert "tracking is off" not in outputs[2]
    assert not [line for text in outputs for line in text.splitlines() if WORD in line]
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert not [path for path in files if WORD.encode() in path.read_bytes()]
