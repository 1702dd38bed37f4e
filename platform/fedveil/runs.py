"""The run store: one folder per run, checkpoints and results written atomically, no pickles.

`runs/<run-id>/` holds config.json (resolved), checkpoint.npz, ledger.sqlite, vaults.json, result.json, pictures and
tracking.json. What is read back of them is checked by `readback` and `mirror`.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import io
import json
import os
import re
import secrets
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.storage.disk import misfit, read_json, write_atomic, write_json

__all__ = [
    "Arrays", "Lock", "Run", "load_array", "lock", "misfit", "new_run_id", "open_run", "pack", "read_json", "unpack",
    "write_atomic", "write_json", "write_packed",
]  # fmt: skip

Arrays = dict[str, NDArray[Any]]
_LOCK = ".lock"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


def new_run_id(label: str) -> str:
    """Return a fresh id such as `20260102-030405-dctdp-1f2e3d` (UTC; the tail keeps simultaneous runs apart)."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{re.sub('[^A-Za-z0-9]+', '-', label)}-{secrets.token_hex(3)}"


def pack(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> bytes:
    """Return arrays and plain JSON `meta` as the bytes of one .npz file."""
    buffer = io.BytesIO()
    _pack_into(buffer, arrays, meta)
    return buffer.getvalue()


def write_packed(
    path: Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], private: bool = False
) -> None:
    """Write what `pack` returns, atomically and array by array: no second copy of a model is in memory.

    Raises:
        OSError: naming `path`; nothing is left of the attempt.
    """
    write_atomic(path, lambda stream: _pack_into(stream, arrays, meta), private)


def _pack_into(stream: BinaryIO, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    text = np.frombuffer(json.dumps(meta, allow_nan=False).encode(), dtype=np.uint8)
    contents: dict[str, Any] = {"__meta__": text, **{f"a/{name}": array for name, array in arrays.items()}}
    np.savez(stream, **contents)


def unpack(source: Path, what: str = "fedveil checkpoint", remedy: str = "") -> tuple[Arrays, dict[str, Any]]:
    """Return what `pack` wrote.

    Raises:
        fedveil.checks.UserError: naming the file, what is wrong and the remedy, where it is none of ours or damaged.
    """
    try:
        with source.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            meta = json.loads(file["__meta__"].tobytes().decode())
            if not isinstance(meta, dict):
                raise ValueError("its description is no block of fields")
            return {name[2:]: file[name] for name in file.files if name.startswith("a/")}, meta
    except Exception as error:  # bytes that anything may have happened to: whatever reading them raises means damage
        raise _damaged(source, what, error, remedy) from error


def load_array(source: Path, what: str, remedy: str = "") -> NDArray[Any]:
    """Return the array of an .npy file, read on demand.

    Raises:
        fedveil.checks.UserError: naming the file, what is wrong and the remedy.
    """
    try:
        found: NDArray[Any] = np.load(source, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive of several arrays")
    except Exception as error:  # as above
        raise _damaged(source, what, error, remedy) from error
    return found


def _damaged(source: Path, what: str, error: Exception, remedy: str) -> checks.UserError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "it is empty or cut short"
    first = textwrap.shorten(reason, 90, placeholder=" ...").rstrip(".")
    return checks.UserError(f"{source} is not a readable {what}: {first}.{' ' * bool(remedy)}{remedy}")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run's folder.

    >>> Run(Path("runs"), "quick-1").result.as_posix()
    'runs/quick-1/result.json'
    """

    root: Path
    run_id: str

    def __post_init__(self) -> None:
        if not _RUN_ID.fullmatch(self.run_id):
            raise checks.UserError(f"Expected run id {self.run_id!r} of letters, digits, dots and hyphens.")

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return self.root / self.run_id

    @property
    def config(self) -> Path:
        """The resolved configuration, JSON."""
        return self.folder / "config.json"

    @property
    def checkpoint(self) -> Path:
        """The state after the last finished round."""
        return self.folder / "checkpoint.npz"

    @property
    def ledger(self) -> Path:
        """The coordinator's ledger of this run."""
        return self.folder / "ledger.sqlite"

    @property
    def result(self) -> Path:
        """What the run found; written when it ends."""
        return self.folder / "result.json"


def make_store(root: Path) -> None:
    """Make a folder for runs that is its owner's alone: times of files tell others how long something took."""
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)


def close_to_others(run: Run) -> None:
    """Let nobody else look into a run's folder, where files change while it goes on; what it found may be copied."""
    run.folder.chmod(0o700)


def hide_times(run: Run) -> None:
    """Give a run's folder and all in it the time at which it began: neither they nor a copy tell how long it took."""
    began = run.config.stat().st_mtime_ns
    for path in [*run.folder.rglob("*"), run.folder]:
        os.utime(path, ns=(began, began))


class Lock:
    """A lock on a run, held until `close` or the end of the process, however hard."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def close(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def lock(run: Run) -> Lock:
    """Return a lock on a run.

    Raises:
        fedveil.checks.UserError: another process has the run open.
    """
    make_store(run.root)
    run.folder.mkdir(exist_ok=True)
    handle = os.open(run.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise checks.UserError(f"Run {run.run_id} is open in another process; wait for it or stop it.") from error
    return Lock(handle)


def take_back(run: Run, before: Collection[Path]) -> None:
    """Remove what a run that was refused while it was opened wrote; call it with the lock held.

    Args:
        run: nothing of it was released. One that had begun before stays as it is.
        before: what was in its folder when the lock was taken.
    """
    if run.config in before:
        return
    written = [path for path in run.folder.iterdir() if path not in before]
    for path in written:
        path.unlink(missing_ok=True)  # a database may have taken its journal back
    if {path.name for path in run.folder.iterdir()} <= {_LOCK}:
        (run.folder / _LOCK).unlink(missing_ok=True)
        run.folder.rmdir()


def open_run(root: Path, run_id: str) -> Run:
    """Return an existing run; an unknown id is refused with the nearest.

    Raises:
        fedveil.checks.UserError: naming the id, the store and the nearest id.
    """
    run = Run(root, run_id)
    if run.config.exists() and not run.config.is_file():
        raise checks.UserError(f"{run.config} is no file; restore it from a backup, or start a new run.")
    if not run.config.is_file():
        known = sorted(path.parent.name for path in root.glob("*/config.json"))
        raise checks.UserError(f"No run {run_id!r} in {root}.{checks.nearest(run_id, known)}")
    return run
