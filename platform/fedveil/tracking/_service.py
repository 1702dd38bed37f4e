"""The process that tells MLflow what runs say: `python -m fedveil.tracking._service`, its door as standard input.

Every run is a connection that arrives through the door. One loop answers them all, in the order in which they came, so
that a sweep's own run exists before its first member looks for it. After a call that failed nothing more is told of a
run but its end. What was said before a run was killed is still told.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fedveil import startup
from fedveil.tracking import RunInfo, _mlflow, reason_of
from fedveil.tracking.stores import Store


class _Conversation:
    """One run: what it said and was not told yet, and its tracker."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self._said = bytearray()
        self._tracker: _mlflow.MlflowTracker | None = None
        self._failed = False

    def go_on(self) -> bool:
        """Read what is there, tell it and answer; return whether more may come."""
        received = b""
        with contextlib.suppress(ConnectionError):  # the run has gone, and left answers unread
            received = self.line.recv(1 << 16)
        *messages, rest = (self._said + received).split(b"\n")
        self._said = bytearray(rest)
        for message in messages:
            answer = json.dumps(self._answer(json.loads(message))).encode() + b"\n"
            with contextlib.suppress(OSError):  # as above: the rest of what it said is told all the same
                self.line.sendall(answer)
        return bool(received)

    def _answer(self, message: Mapping[str, Any]) -> dict[str, str] | None:
        """Do what a message says; return None, or what failed and why."""
        method, arguments = message["method"], message["arguments"]
        if self._failed and method != "finish":
            return None
        try:
            self._do(method, arguments, message["at"])
        except Exception as error:  # whatever a store does, the run is told and goes on
            again, self._failed = self._failed, True
            return None if again else {"method": method, "reason": reason_of(error)}
        return None

    def _do(self, method: str, given: Mapping[str, Any], at: int) -> None:
        if method == "start":
            self._tracker = _mlflow.MlflowTracker(Store(**given["store"]))
            self._tracker.start(RunInfo(**given["info"]))
            return
        tracker = self._tracker
        if tracker is None:
            raise RuntimeError(f"{method} before start")
        tracker.now = at
        match method:
            case "log_round":
                tracker.log_round(given["round"], given["metrics"])
            case "log_tags":
                tracker.log_tags(given["tags"])
            case "log_artifact":
                tracker.log_artifact(Path(given["path"]), given["folder"])
            case "send_model":
                tracker.send_model(Path(given["folder"]), given["inputs"], given["width"])
            case "finish":
                tracker.finish(given["status"])


def serve(door: socket.socket) -> None:
    """Tell what runs say, until nobody holds the door and every run has said all."""
    with selectors.DefaultSelector() as selector:
        selector.register(door, selectors.EVENT_READ)
        talks: dict[int, _Conversation] = {}
        while selector.get_map():
            ready = {key.fd for key, _ in selector.select()}
            for number in [*talks]:  # older runs first
                if number in ready and not talks[number].go_on():
                    selector.unregister(talks[number].line)
                    talks.pop(number).line.close()
            if door.fileno() in ready:
                sign, handed, _, _ = socket.recv_fds(door, 1, 1)
                for handle in handed:
                    line = socket.socket(fileno=handle)
                    talks[handle] = _Conversation(line)
                    selector.register(line, selectors.EVENT_READ)
                if not sign:
                    selector.unregister(door)


def main() -> NoReturn:
    """Import MLflow, then serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # a tracker's own deprecations are not the user's concern
    door = socket.socket(fileno=os.dup(0))
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    with contextlib.suppress(Exception), startup.importing():  # what is wrong is said of the first run that starts
        _mlflow.warm()
    gc.set_threshold(50_000, 20, 20)  # making a store's tables imports and makes as much again
    serve(door)
    os._exit(0)  # everything was told; taking MLflow apart would take longer than telling a short run


if __name__ == "__main__":
    main()
