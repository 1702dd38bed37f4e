"""Nothing of fedveil, Flower or MLflow contacts a machine other than this one unless it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlflow")
pytest.importorskip("flwr")

# An audit hook sees every name look-up and every connection of Python's sockets, whatever library and thread makes it;
# registered at exit first, so that it reports last, after libraries have flushed what they hold back until the end.
GUARD = """
import atexit, sys
attempts = []

def hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path is a socket of this machine
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost", "::1") or str(host).startswith("127."):
        return
    attempts.append((event, host))
    raise OSError(f"blocked by the test: {event} {host}")

sys.addaudithook(hook)
atexit.register(lambda: print("ATTEMPTS", attempts))
"""

WORK = """
import fedveil  # switches calls home off, before anything else is imported
import flwr, flwr.clientapp, flwr.serverapp, mlflow, mlflow.pytorch
import torch
from pathlib import Path
from fedveil.configuration.schema import Tracking
from fedveil.tracking import RunInfo, Safe, _full, _mlflow, stores

def write(folder):
    _full.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), (3, 2, 2), folder)
    return (3, 2, 2), 2

_mlflow.warm()  # here, where the hook sees it: the process that tells MLflow runs the same
tracker = Safe(_mlflow.MlflowTracker(stores.chosen(Tracking("mlflow"), Path(sys.argv[1]))))
tracker.start(RunInfo("r1", "quiet", "quiet", {"train.rounds": 1}))
tracker.log_round(1, {"accuracy": 0.5})
tracker.log_model(write)
tracker.finish()
print("PROBLEM", tracker.problem)
from flwr.supercore.telemetry import EventType, event
event(EventType.PING).result()
from flwr.supercore import update_check
print("UPDATE CHECK OFF", update_check.os.getenv(update_check.FLWR_DISABLE_UPDATE_CHECK) == "1")
"""

OFF = (
    "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "RAY_USAGE_STATS_ENABLED", "MLFLOW_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY",
)  # fmt: skip


def run(code: str, folder: Path, **environment: str) -> str:
    """Run the code in a fresh process whose environment says nothing about telemetry beyond `environment`."""
    clean = {key: value for key, value in os.environ.items() if key not in (*OFF, "DO_NOT_TRACK", "CI")}
    clean |= {"FLWR_HOME": str(folder / "flwr"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", GUARD + code, str(folder)], env=clean, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_tracked_run_contacts_nobody(tmp_path: Path) -> None:
    shown = run(WORK, tmp_path)
    assert "PROBLEM None" in shown
    assert "UPDATE CHECK OFF True" in shown
    assert shown.rstrip().endswith("ATTEMPTS []")


def test_the_guard_sees_an_attempt(tmp_path: Path) -> None:
    code = WORK.replace("import fedveil  #", "#").split("import torch")[0] + (
        "from flwr.supercore.telemetry import EventType, event\nevent(EventType.PING).result()\n"
    )
    assert "telemetry.flower.ai" in run(code, tmp_path, FLWR_TELEMETRY_ENABLED="1", MLFLOW_DISABLE_TELEMETRY="true")


def test_the_switches_are_set_by_importing_fedveil_and_yield_to_the_user(tmp_path: Path) -> None:
    code = f"import os, fedveil\nprint([os.environ[name] for name in {OFF!r}])\n"
    assert "['0', '1', '0', 'true', '1']" in run(code, tmp_path)
    assert "['1', '1', '0', 'true', '1']" in run(code, tmp_path, FLWR_TELEMETRY_ENABLED="1")
