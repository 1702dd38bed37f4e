"""What a run says reaches its store in order, whatever ends first: the run, the store or the process between them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedveil import checks
from fedveil.storage import addresses
from fedveil.tracking import Failed, RunInfo, Safe, Tracker, _mlflow, _remote, _service
from fedveil.tracking.stores import Store

STORE = Store("sqlite:///nowhere.db", "sqlite:///nowhere.db")
told: list[tuple[str, str, Any]] = []


class Noted(Tracker):
    """Remembers what it was told, and fails on round 2 where the store is called broken."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now: int | None = None
        self.run = ""

    def start(self, info: RunInfo) -> None:
        self.run = info.run_id
        if info.parent is not None and (info.parent, "start", None) not in told:
            raise RuntimeError("the parent is unknown")
        time.sleep(0.2 if info.run_id == "slow" else 0)
        told.append((self.run, "start", None))

    def log_round(self, round: int, metrics: Any) -> None:  # noqa: A002
        if self.store.uri == "broken" and round == 2:
            raise ConnectionError("no answer from http://me:s3cretword@host/\nat all")
        told.append((self.run, "round", (round, dict(metrics), self.now)))

    def finish(self, status: str = "FINISHED") -> None:
        told.append((self.run, "finish", status))


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The real loop in a thread of this process, with trackers that touch no MLflow."""
    told.clear()
    monkeypatch.setattr(_mlflow, "MlflowTracker", Noted)
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(_remote, "_door", ours)
    thread = threading.Thread(target=_service.serve, args=(theirs,))
    thread.start()
    yield ours
    ours.close()
    thread.join(10)
    assert not thread.is_alive()  # nobody holds the door, so it has ended
    theirs.close()


def test_runs_are_told_in_order_with_the_time_of_what_they_said(door: socket.socket) -> None:
    parent, child = _remote.Remote(STORE), _remote.Remote(STORE)
    parent.start(RunInfo("slow", "demo", "sweep"))
    child.start(RunInfo("child", "demo", "member", parent="slow"))  # before the other's start can have ended
    before = int(time.time() * 1000)
    for number in (1, 2):
        child.log_round(number, {"accuracy": number / 4})
    child.finish("KILLED")
    parent.finish()
    assert [entry[:2] for entry in told] == [
        ("slow", "start"), ("child", "start"), ("child", "round"), ("child", "round"), ("child", "finish"),
        ("slow", "finish"),
    ]  # fmt: skip
    assert [entry[2][:2] for entry in told[2:4]] == [(1, {"accuracy": 0.25}), (2, {"accuracy": 0.5})]
    assert all(abs(entry[2][2] - before) < 150 for entry in told[2:4])  # when it was said, not when it was told
    assert told[4][2] == "KILLED"


def test_a_process_that_was_handed_the_door_uses_it(door: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    (number,), variables = _remote.handed()
    assert number == door.fileno()
    monkeypatch.setenv(_remote.DOOR, str(os.dup(int(variables[_remote.DOOR]))))
    monkeypatch.setattr(_remote, "_door", None)
    monkeypatch.setattr(_remote, "_start", lambda: pytest.fail("another service"))
    assert _remote.handed() == ((), {})
    run = _remote.Remote(STORE)
    run.start(RunInfo("r1", "demo", "first"))
    run.finish()
    assert [entry[:2] for entry in told] == [("r1", "start"), ("r1", "finish")]
    assert _remote.DOOR not in os.environ
    assert _remote._door is not None
    _remote._door.close()


def test_more_than_a_pipe_holds_is_told_without_waiting(door: socket.socket) -> None:
    run = _remote.Remote(STORE)
    run.start(RunInfo("slow", "demo", "much"))
    begun = time.monotonic()
    for number in range(3000):
        run.log_round(number, {f"metric {place}": 0.5 for place in range(10)})
    said = time.monotonic() - begun
    run.finish()
    assert [entry[2][0] for entry in told if entry[1] == "round"] == [*range(3000)]
    assert said < time.monotonic() - begun


def test_what_failed_is_said_by_a_later_call_and_nothing_more_is_told_but_the_end(door: socket.socket) -> None:
    said: list[str] = []
    run = Safe(_remote.Remote(Store("broken", "broken")), warn=said.append)
    run.start(RunInfo("r1", "demo", "first"))
    for number in (1, 2, 3):
        run.log_round(number, {"accuracy": 0.5})
    run.finish()
    assert said == [
        "Warning: tracking is off for the rest of this run (log_round: ConnectionError: no answer from "
        "http://***@host/); the run goes on and its own folder stays complete."
    ]
    assert [entry[:2] for entry in told] == [("r1", "start"), ("r1", "round"), ("r1", "finish")]


def test_what_a_killed_run_said_is_still_told(door: socket.socket) -> None:
    run = _remote.Remote(STORE)
    run.start(RunInfo("slow", "demo", "killed"))
    run.log_round(1, {"accuracy": 0.5})
    assert run._line is not None
    run._line.close()  # as the end of a process closes it, with answers on their way
    other = _remote.Remote(STORE)
    other.start(RunInfo("r2", "demo", "next"))
    other.finish()
    assert [entry[:2] for entry in told] == [
        ("slow", "start"), ("slow", "round"), ("r2", "start"), ("r2", "finish"),
    ]  # fmt: skip


def test_a_call_out_of_order_is_refused() -> None:
    run = _remote.Remote(STORE)
    with pytest.raises(RuntimeError, match="before start"):
        run.log_round(1, {})
    with pytest.raises(checks.UserError, match="status"):
        run.finish("DONE")


def test_a_service_that_is_killed_fails_its_runs_and_the_next_run_has_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def started(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        made.append(real(["sleep", "100"] if not made else command, **more))
        return made[-1]

    monkeypatch.setattr(_remote, "_door", None)
    monkeypatch.setattr(_remote.subprocess, "Popen", started)
    uri = "http://127.0.0.1:9"  # where nobody answers
    first = _remote.Remote(Store(uri, uri))
    first.start(RunInfo("r1", "demo", "first"))
    os.kill(made[0].pid, signal.SIGKILL)
    with pytest.raises(Failed, match="the process that tells MLflow ended"):
        first.finish()
    made[0].wait(10)
    second = _remote.Remote(STORE)
    second.start(RunInfo("r2", "demo", "second"))
    assert len(made) == 2
    assert second._line is not None
    second._line.close()
    assert _remote._door is not None
    _remote._door.close()
    assert made[1].wait(60) == 0


def test_a_secret_is_in_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    ours, theirs = socket.socketpair()

    def start() -> socket.socket:
        seen.append(1)
        return ours

    monkeypatch.setattr(_remote, "_door", None)
    monkeypatch.setattr(_remote, "_start", start)
    address = "postgresql://me:s3cretword@db/x"
    run = _remote.Remote(Store(address, addresses.redacted(address)))
    run.start(RunInfo("r1", "demo", "first"))
    _, handed, _, _ = socket.recv_fds(theirs, 1, 1)
    with socket.socket(fileno=handed[0]) as line:
        said = json.loads(line.recv(1 << 16))
    assert said["arguments"]["store"]["uri"] == address  # through the connection alone
    assert seen == [1]
    with pytest.raises(Failed, match="the process that tells MLflow ended"):
        run.finish()
    ours.close()
    theirs.close()
