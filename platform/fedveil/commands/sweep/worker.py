"""One cell of a sweep, a run and the attacks on it, in a process of its own: forked where that is safe, else anew.

A forked cell has all that the sweep imported and read, and nothing of another cell: it ends with its run, so memory is
given back and a crash is its own. Its noise comes from the operating system, as every process's does.

Started anew, `python -m fedveil.commands.sweep.worker`, it reads the job as a JSON line on standard input, which stays
open for as long as the sweep lives: when it ends, however hard the sweep was killed, so does the worker, at once. The
run's checkpoint is atomic, so nothing is lost but the round in progress.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

NO_LOG = 74
"""A worker's exit status when it could not even say why: sysexits' EX_IOERR."""
_PR_SET_PDEATHSIG = 1


def forked(job: Mapping[str, str], log: Path, sweep: int) -> NoReturn:
    """Run a job in this process, which was forked for it, and end.

    Args:
        job: `config`, `run_id`, `parent` and `attacks` (see `attacks.job`).
        log: takes what the run prints; its last line says why it failed, if it did.
        sweep: process id of the sweep, with which this process ends.
    """
    try:
        os.setsid()  # Ctrl-C reaches the sweep alone, and the kernel shares the processor by session
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != sweep:
            os._exit(3)
        _signals()
        for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
            opened = os.open(name, mode, 0o644)
            os.dup2(opened, number)
            os.close(opened)
        os.dup2(1, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        _own_randomness()
        os._exit(_status(job))
    except KeyboardInterrupt:
        os._exit(130)
    except OSError:
        os._exit(NO_LOG)
    except BaseException as error:  # nothing of the sweep may run in this process
        os.write(1, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    finally:
        os._exit(NO_LOG)


def _own_randomness() -> None:
    """Start the global generators anew: the fork has copied their states. Nothing of fedveil draws from them."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(3)


def main() -> int:
    """Run the job; the last line of standard output says why it failed, if it did."""
    _signals()
    line = bytearray()
    while not line.endswith(b"\n"):
        if not (sign := os.read(0, 1)):
            return 3
        line += sign
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return _status(json.loads(line))


def _status(job: Mapping[str, str]) -> int:
    try:
        return _run(job)
    except OSError:  # not even the log can be written
        os._exit(NO_LOG)


def _run(job: Mapping[str, str]) -> int:
    from fedveil import config
    from fedveil.commands import simulate
    from fedveil.commands.sweep import attacks
    from fedveil.federation.federation import Federation

    try:
        federation = Federation(config.from_json(job["config"]))
        federation.check_clients()
        simulate.simulate(federation, job["run_id"], "plain", job["parent"])
        chosen = attacks.of_job(job["attacks"])
        failed = attacks.run_all(federation.settings, job["run_id"], chosen, _said, _Step())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    except Exception as error:  # whatever it is, it is this run's failure and the others go on
        failed = [_said(error)]
    if failed:
        print("; ".join(failed), flush=True)
    return int(bool(failed))


def _said(error: Exception) -> str:
    """Return why something failed, in one line; where it is none of ours, where it came from stands in the log."""
    from fedveil import checks
    from fedveil.storage import addresses, disk

    if isinstance(error, checks.UserError | OSError):
        said = disk.said(error) if isinstance(error, OSError) else str(error)
    else:
        print(addresses.redacted("".join(traceback.format_exception(error))), file=sys.stderr, flush=True)
        said = f"{type(error).__name__}: {error}"
    return " ".join(addresses.redacted(said).split())


class _Step:
    """Writes how far an attack is, a line when it changes by a percent, at most ten a second."""

    def __init__(self) -> None:
        self._last, self._at = "", 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        line = f"attack {name} {100 * done // max(1, total)} %"
        if line != self._last and (not self._last or time.monotonic() - self._at > 0.1):
            self._last, self._at = line, time.monotonic()
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
