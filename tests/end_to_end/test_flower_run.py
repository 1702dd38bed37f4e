"""The same two apps under real `flwr run` (SuperLink, Ray): the same model to the last bit.

Flower's local SuperLink is a daemon that outlives the command, listens on fixed ports unless told otherwise, keeps the
environment of its first start and lets `flwr run` return 0 for a run that crashed. So: a home and ports of its own, the
run's status is asked for, and every process that carries this home in its environment is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedveil import cli
from fedveil_strategies import observers

SMALL = (
    "evaluation.reference=false", "data.identities=9", "data.images_per_identity=4", "data.evaluation_identities=6",
    "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4", "data.public_images=4",
    "protection.fit_steps=3", "model.width=8", "model.embedding=16", "train.clients=4", "train.rounds=2",
    "train.local.steps=2", "train.batch_size=6", "train.cohort.rate=0.8", "evaluation.draws=1",
    "evaluation.bootstrap=0", "tracking=none",
)  # fmt: skip
BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds Flower's daemons in Linux's /proc"),
]


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def processes_of(home: Path) -> list[int]:
    """Return the processes whose environment names this FLWR_HOME: the daemons that this test started."""
    mark = f"FLWR_HOME={home}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


@pytest.fixture
def flower(tmp_path):
    """The environment of a private Flower installation; its processes end with the test."""
    pytest.importorskip("ray", reason="needs the extra flwr[simulation]")
    if not (BIN / "flwr").exists() and shutil.which("flwr") is None:
        pytest.skip("needs Flower's command line beside this Python")
    home = tmp_path / "flwr"
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        # What a bundle leaves out: the daemon and all that it starts keep the environment of its first start.
        "FEDVEIL_COORDINATOR": shlex.join(["tracking=none", f"runs.root={tmp_path / 'runs'}"]),
        "FEDVEIL_NODE": str(tmp_path / "node.toml"),
    }
    yield environment
    for sign in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + 10
        for pid in processes_of(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        while processes_of(home) and time.monotonic() < end:
            time.sleep(0.1)
    assert processes_of(home) == []


def flwr(environment, *words):
    done = subprocess.run(["flwr", *words], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def finished(environment, run_id, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        (run,) = flwr(environment, "ls", "--run-id", run_id, "--format", "json")["runs"]
        if run["status"].startswith("finished"):
            return run
        time.sleep(1)
    raise AssertionError(f"run {run_id} did not end: {run['status']}")


def submitted(environment, run_config):
    federation = "num-supernodes=4 client-resources-num-cpus=1"
    words = ["run", "app", "--federation-config", federation, "-c", run_config, "--format", "json"]
    return str(flwr(environment, *words)["run-id"])


def model(run_id):
    return json.loads(Path("runs", run_id, "result.json").read_text())["model_sha256"]


def test_flwr_run_gives_the_inline_engines_model(tmp_path, monkeypatch, flower):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    Path("node.toml").write_text('vault-root = ".fedveil/vault"\nsimulated = true\n')
    assert cli.main(["bundle", "app", *SMALL]) == 0
    # Flower first: it draws the noisy copies, from the operating system; the inline engine reads them from the vault.
    run = finished(flower, submitted(flower, 'run-id="under-flower"'))
    assert run["status"] == "finished:completed", run["status-details"]
    assert cli.main(["simulate", *SMALL, "engine=inline"]) == 0
    (inline,) = (path.name for path in Path("runs").iterdir() if path.name != "under-flower")
    assert model("under-flower") == model(inline)
    # A node that says nothing about test seeds refuses them, and the run says why although `flwr run` returned 0.
    shutil.rmtree("app")
    assert cli.main(["bundle", "app", *SMALL, "privacy.test_seed=1"]) == 0
    refused = finished(flower, submitted(flower, 'run-id="refused"'))
    assert refused["status"] == "finished:failed"
    assert "test_seed" in refused["status-details"]
    assert not Path("runs", "refused", "result.json").exists()
