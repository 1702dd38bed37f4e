"""What a running sweep holds: its lock, so that it runs once at a time, and the signals that stop it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from fedveil import checks, runs


@contextlib.contextmanager
def alone(sweep_id: str, root: Path, folder: Path) -> Iterator[None]:
    """Hold the lock in a sweep's folder, which is made; the lock ends with this process however it ends.

    Raises:
        fedveil.checks.UserError: another process holds it.
    """
    import fcntl

    runs.make_store(root)
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise checks.UserError(
                f"{sweep_id} is running already in {root}/; wait for it, or give this one a --name."
            ) from None
        yield


@contextlib.contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop the workers as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
