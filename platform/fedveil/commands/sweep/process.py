"""The sweep's side of a worker process: start it, see how far it is, say why it ended, stop it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NO_LOG = 74
"""A worker's exit status when it could not even say why: sysexits' EX_IOERR."""
_ROUND = re.compile(r"^\s*(\d+)/\d+\s", re.MULTILINE)
_TAIL = 4000  # bytes of the log that are looked at
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclasses.dataclass(frozen=True)
class Worker:
    """One run in a process of its own, whose output goes to a log in the run's folder.

    It is no member of the terminal's foreground group, so Ctrl-C reaches the sweep alone; and it ends as soon as its
    standard input does, so it never outlives the sweep.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, job: Mapping[str, str], log: Path) -> Worker:
        """Start a worker on a job, see `fedveil.commands.sweep.worker`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedveil.commands.sweep.worker"],
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **_ONE_THREAD},
            )  # fmt: skip
        worker = cls(process, log)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it died already, which polling will tell
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
        return worker

    def _tail(self) -> str:
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - _TAIL))
            return stream.read().decode(errors="replace")

    def last_round(self) -> int:
        """Return the number of the last round that the log reports, 0 before the first."""
        return max((int(number) for number in _ROUND.findall(self._tail())), default=0)

    def reason(self, code: int) -> str:
        """Return in one line why the process ended with this exit status."""
        if code < 0:
            remedy = "; too little memory? use fewer --workers" if -code == signal.SIGKILL else ""
            return f"ended by {signal.Signals(-code).name}{remedy} ({self.log})"
        if code == NO_LOG:
            return f"{self.log}: its output cannot be written; is there room?"
        lines = [line for line in self._tail().splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit status {code} without a word"

    def interrupt(self) -> None:
        """Ask the process to end as Ctrl-C would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, at most so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def kill(self) -> None:
        """End the process for certain."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.close()

    def close(self) -> None:
        """Close the pipe to the process."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
