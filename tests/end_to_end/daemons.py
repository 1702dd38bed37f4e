"""Processes that outlive the command that starts them, for tests: found again by their environment, and all ended.

Flower's daemons start others in sessions of their own. Every process here carries a mark in its environment, which its
children inherit; Linux's /proc shows it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "COLUMNS": "200",
}  # fmt: skip
_PART = "FEDVEIL_TEST_PART"


def free_port() -> str:
    """Return a port that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def until(true: Callable[[], Any], seconds: float, what: str, pause: float = 0.2) -> Any:
    """Return what `true` returns once it is true."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"{what} took more than {seconds} s"
        time.sleep(pause)
    return found


def command(pid: int) -> str:
    """Return a process's command line; an empty text when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


class Daemons:
    """The processes of one folder, by part: a part is what one supervisor starts, with all that comes of it."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, part: str, **more: str) -> dict[str, str]:
        """Return this process's environment, nothing that calls home, and the mark of a part."""
        path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, **QUIET, "PATH": path, _PART: f"{self.root}:{part}", **more}

    def spawn(self, part: str, log: Path, words: Iterable[str], **more: str) -> int:
        """Start a part in its log's folder and return its process."""
        with log.open("ab") as out:
            self.started[part] = subprocess.Popen(
                list(words), env=self.environment(part, **more), cwd=log.parent, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return self.started[part].pid

    def running(self, part: str) -> bool:
        """Tell whether a part's first process has not ended."""
        return part in self.started and self.started[part].poll() is None

    def processes(self, part: str | None = None) -> list[int]:
        """Return a part's processes, or all of them."""
        mark = f"{_PART}={self.root}:".encode() + (part or "").encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                lines = path.read_bytes().split(b"\0")
                if any(line == mark if part else line.startswith(mark) for line in lines):
                    found.append(int(path.parent.name))
        return found

    def end(self, part: str, sign: signal.Signals, seconds: float = 30) -> None:
        """Signal a part's first process, then kill what it has left; the order is a supervisor's."""
        first = self.started.pop(part, None)
        if first is not None and first.poll() is None and sign != signal.SIGKILL:
            first.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                first.wait(seconds)
        self._kill(part)
        if first is not None:
            first.wait()
        until(lambda: not self.processes(part), 10, f"ending {part}")

    def close(self) -> None:
        """End everything; a process that is left is an error."""
        for part in reversed(list(self.started)):
            self.end(part, signal.SIGTERM, seconds=10)
        self._kill(None)
        until(lambda: not self.processes(), 10, "ending all processes")

    def _kill(self, part: str | None) -> None:
        for pid in self.processes(part):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
