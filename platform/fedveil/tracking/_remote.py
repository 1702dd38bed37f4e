"""A tracker in a process of its own: this side of it.

Starting MLflow takes seconds and a server may be slow, so a run only says what is to be told, and goes on: `_service`
tells it meanwhile. A run waits once, in `finish`. What failed there is raised by the next call here.

One service tells of all runs of a process and of the sweep's workers that it hands its door to: a run is a connection,
one JSON object a line, answered one by one and in order. A service ends when nobody holds its door any more.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil.tracking import Failed, RunInfo, Tracker, WriteModel
from fedveil.tracking.stores import Store

DOOR = "FEDVEIL_TRACKING_DOOR"
"""Environment variable: the file descriptor of a door that this process was handed."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_ENDED = "the process that tells MLflow ended"
_door: socket.socket | None = None
_used = False  # a run was told through it


def warm() -> socket.socket:
    """Return the door of the service, which starts to import MLflow now unless there is one already."""
    global _door
    if _door is None:
        given = os.environ.pop(DOOR, "")
        _door = socket.socket(fileno=int(given)) if given else _start()
    return _door


def handed() -> tuple[tuple[int, ...], dict[str, str]]:
    """Return the descriptors and variables with which a new process shares this one's service."""
    if _door is None:
        return (), {}
    return (_door.fileno(),), {DOOR: str(_door.fileno())}


def _start() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedveil.tracking._service"],
            stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C reaches the run alone, which then says how it ended
            env={**os.environ, **_ONE_THREAD},
        )  # fmt: skip
    atexit.register(_stop, process, os.getpid())
    return ours


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    """Close the door and wait until the service has gone; at once where nobody told it anything."""
    if os.getpid() != owner:
        return
    if _door is not None:
        _door.close()
    if not _used:
        process.kill()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _connected() -> socket.socket:
    """Return a new connection to the service; to a new one where it has ended."""
    global _door, _used
    _used = True
    for attempt in (1, 2):
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(warm(), [b"+"], [theirs.fileno()])
            return ours
        except OSError:
            ours.close()
            if _door is not None:
                _door.close()
                _door = None
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


class Remote(Tracker):
    """Says what is to be told, to a service that tells it; nothing but `finish` waits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._line: socket.socket | None = None
        self._out, self._in = bytearray(), bytearray()
        self._open = 0  # messages without an answer yet
        self._failed: Failed | None = None
        self._kept: tempfile.TemporaryDirectory[str] | None = None  # the model, until it was told

    def start(self, info: RunInfo) -> None:
        if self._store.problem:
            raise checks.UserError(self._store.problem)
        self._line = _connected()
        self._line.setblocking(False)
        self._tell("start", store=dataclasses.asdict(self._store), info=dataclasses.asdict(info))

    def log_round(self, round: int, metrics: Mapping[str, float]) -> None:  # noqa: A002
        self._tell("log_round", round=round, metrics={key: float(value) for key, value in metrics.items()})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self._tell("log_tags", tags=dict(tags))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self._tell("log_artifact", path=os.path.abspath(path), folder=folder)

    def log_model(self, write: WriteModel) -> None:
        self._kept = tempfile.TemporaryDirectory()
        folder = Path(self._kept.name).absolute() / "model"
        inputs, width = write(folder)
        self._tell("send_model", folder=str(folder), inputs=[*inputs], width=width)

    def finish(self, status: str = "FINISHED") -> None:
        checks.one_of(("FINISHED", "FAILED", "KILLED"), status=status)
        if self._line is None:
            return
        try:
            self._tell("finish", wait=True, status=status)
        finally:
            self._line.close()
            self._line = None
            if self._kept is not None:
                self._kept.cleanup()

    def _tell(self, method: str, wait: bool = False, **arguments: Any) -> None:
        """Say one thing, and raise what has failed since; with `wait`, once everything was told."""
        if self._line is None:
            raise RuntimeError(f"{method} before start, or after finish")
        message = {"method": method, "at": int(time.time() * 1000), "arguments": arguments}
        self._out += json.dumps(message).encode() + b"\n"
        self._open += 1
        try:
            self._exchange(self._line, wait)
        except OSError as error:
            raise Failed(method, f"{_ENDED} ({error.strerror or error})") from error
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def _exchange(self, line: socket.socket, wait: bool) -> None:
        """Send and receive what is possible now; with `wait` until every message has its answer."""
        with selectors.DefaultSelector() as selector:
            selector.register(line, selectors.EVENT_READ)
            while self._open:
                selector.modify(line, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0))
                ready = selector.select(None if wait else 0)
                if not ready:
                    return
                if ready[0][1] & selectors.EVENT_WRITE:
                    del self._out[: line.send(self._out)]
                if ready[0][1] & selectors.EVENT_READ:
                    self._receive(line)

    def _receive(self, line: socket.socket) -> None:
        received = line.recv(1 << 16)
        if not received:
            raise ConnectionError(_ENDED)
        *answers, rest = (self._in + received).split(b"\n")
        self._in = bytearray(rest)
        for answer in answers:
            self._open -= 1
            failed = json.loads(answer)
            if failed is not None and self._failed is None:
                self._failed = Failed(failed["method"], failed["reason"])
