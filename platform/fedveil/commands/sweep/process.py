"""The sweep's side of a worker process: start it, see how far it is, say why it ended, stop it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import connection
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

import torch

from fedveil import device, engine, tracking
from fedveil.commands.sweep import worker
from fedveil.configuration.schema import Config
from fedveil.federation.federation import Federation
from fedveil.pictures import style

FORKS = sys.platform == "linux"
"""Whether this system's processes may be forked: on Linux alone, as for the pool engine."""
_ROUND = re.compile(r"^\s*(\d+)/\d+\s", re.MULTILINE)
_ATTACK = re.compile(r"^attack (\w+) (\d+) %$", re.MULTILINE)
_TAIL = 4000  # bytes of the log that are looked at
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Process(Protocol):
    """The half of `subprocess.Popen` that a sweep needs."""

    def poll(self) -> int | None:
        """Return the exit status, minus the signal that ended it, None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, at most so many seconds."""
        ...

    def send_signal(self, sig: int, /) -> None:
        """Send a signal."""
        ...

    def kill(self) -> None:
        """End it for certain."""
        ...


class Forked:
    """A copy of this process that runs one function and ends."""

    def __init__(self, function: Callable[..., NoReturn], *arguments: Any) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
        gc.collect()
        gc.freeze()  # the copy need not look through what it shares with this process
        self._process.start()

    @property
    def sentinel(self) -> int:
        """What becomes readable when it ends."""
        return self._process.sentinel

    def poll(self) -> int | None:
        """Return the exit status, minus the signal that ended it, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, at most so many seconds; as `subprocess.Popen.wait`."""
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(str(self._process.name), timeout or 0.0)
        return code

    def send_signal(self, sig: int, /) -> None:
        """Send a signal."""
        if self._process.pid is not None:
            os.kill(self._process.pid, sig)

    def kill(self) -> None:
        """End it for certain."""
        self._process.kill()


def forks() -> bool:
    """Return whether cells are forked: not beside a GPU, which a copy of a process that has used it cannot use."""
    return FORKS and not any(name.startswith("cuda") for name in device.existing())


def warm(settings: Config) -> None:
    """Import and read here, once, what forked cells need; what is wrong with it is said by the cell itself."""
    if not forks():
        return
    torch.set_num_threads(1)  # before any fork: threads do not survive one
    with contextlib.suppress(Exception):
        for app in (engine.SERVER_APP, engine.CLIENT_APP):
            engine.load(app)
        style.figure(1.0, 1.0, "")
        _ = Federation(settings).shares


@dataclasses.dataclass(frozen=True)
class Worker:
    """One run in a process of its own, whose output goes to a log in the run's folder.

    It is no member of the terminal's foreground group, so Ctrl-C reaches the sweep alone; and it never outlives it.
    """

    process: Process
    log: Path
    stdin: IO[bytes] | None = None

    @classmethod
    def start(cls, job: Mapping[str, str], log: Path) -> Worker:
        """Start a worker on a job, see `fedveil.commands.sweep.worker`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            if forks():
                sys.stdout.flush()  # or the copy would print it again
                sys.stderr.flush()
                return cls(Forked(worker.forked, job, log, os.getpid()), log)
            descriptors, variables = tracking.handed()
            process = subprocess.Popen(
                [sys.executable, "-m", "fedveil.commands.sweep.worker"],
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=descriptors, env={**os.environ, **_ONE_THREAD, **variables},
            )  # fmt: skip
        started = cls(process, log, process.stdin)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it died already, which polling will tell
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
        return started

    def _tail(self) -> str:
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - _TAIL))
            return stream.read().decode(errors="replace")

    def last_round(self) -> int:
        """Return the number of the last round that the log reports, 0 before the first."""
        return max((int(number) for number in _ROUND.findall(self._tail())), default=0)

    def attack(self) -> tuple[str, int] | None:
        """Return the attack that the log reports last and how far it is, percent; None before the first."""
        found = _ATTACK.findall(self._tail())
        return (found[-1][0], int(found[-1][1])) if found else None

    def reason(self, code: int) -> str:
        """Return in one line why the process ended with this exit status."""
        if code < 0:
            remedy = "; too little memory? use fewer --workers" if -code == signal.SIGKILL else ""
            return f"ended by {signal.Signals(-code).name}{remedy} ({self.log})"
        if code == worker.NO_LOG:
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
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()


def wait_for_one(workers: Iterable[Worker], seconds: float) -> None:
    """Wait until one of the workers has ended, at most so long."""
    ends = [forked.sentinel for worker in workers if isinstance(forked := worker.process, Forked)]
    if ends:
        connection.wait(ends, seconds)
    else:
        time.sleep(seconds)
