"""What a client keeps from round to round: its class centres, and a control variate where it has one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, runs
from fedveil.storage import disk
from fedveil_clients.vault_folder import private_folder

LOST = "Restore the vault from a backup, or start a new run: it draws new class centres."


@dataclasses.dataclass(frozen=True)
class Heads:
    """Versions of one client's class centres, or of what else it keeps between rounds, one file per round joined.

    The coordinator commits round r by sending round r + 1: a client at round r reads the newest version before r, so a
    round interrupted at any point is simply run again, and older versions than the one read are never needed again.
    """

    folder: Path
    what: str = "class centres"

    def _versions(self) -> dict[int, Path]:
        found: dict[int, Path] = {}
        with contextlib.suppress(FileNotFoundError):  # nobody has trained yet
            for name in os.listdir(self.folder):
                if name.startswith("r") and name.endswith(".npz") and name[1:-4].isdigit():
                    found[int(name[1:-4])] = self.folder / name
        return found

    def of(self, round_number: int) -> Path:
        """Return where the version after a round is, or would be."""
        return self.folder / f"r{round_number:06d}.npz"

    def before(self, round_number: int) -> NDArray[np.float32] | None:
        """Return the centres (K, D) of the newest round before `round_number`, or None."""
        past = {version: path for version, path in self._versions().items() if version < round_number}
        if not past:
            return None
        return _centres(past[max(past)], self.what)

    def save(self, round_number: int, centres: NDArray[np.float32]) -> None:
        """Store the centres after `round_number` and drop versions that no round can ask for any more."""
        private_folder(self.folder)
        path = self.of(round_number)
        disk.place(path, runs.pack({"centres": centres}, {"round": round_number}))
        _LATELY.keep(path, centres)
        versions = self._versions()
        kept = max((v for v in versions if v < round_number), default=round_number)
        for version, path in versions.items():
            if version < kept:
                path.unlink(missing_ok=True)


def _centres(path: Path, what: str) -> NDArray[np.float32]:
    """Return the centres in a file, checked."""
    if (lately := _LATELY.of(path)) is not None:
        return lately
    arrays, _ = runs.unpack(path, f"file of {what}", LOST)
    found = arrays.get("centres")
    if found is None or found.dtype != np.float32 or found.ndim != 2 or not np.isfinite(found).all():
        shown = "no centres" if found is None else f"{found.dtype} {found.shape} or values that are not finite"
        raise checks.UserError(f"{path} is not a readable file of {what}: it holds {shown}. {LOST}")
    return found


class _Lately:
    """Class centres that this process has written itself, each as long as its file is the one that it wrote."""

    def __init__(self, limit: int) -> None:
        self._left, self._kept = limit, dict[str, tuple[tuple[int, ...], NDArray[np.float32]]]()

    def keep(self, path: Path, centres: NDArray[np.float32]) -> None:
        """Remember one client's centres in place of its earlier ones, while there is room."""
        own = os.fspath(path.parent)
        if own in self._kept:
            self._left += self._kept.pop(own)[1].nbytes
        if centres.nbytes <= self._left:
            self._left -= centres.nbytes
            self._kept[own] = _stamp(path), centres.copy()

    def of(self, path: Path) -> NDArray[np.float32] | None:
        """Return a copy of the centres in a file, or None where it has to be read."""
        found = self._kept.get(os.fspath(path.parent))
        return found[1].copy() if found is not None and found[0] == _stamp(path) else None


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what tells a file from every other one that had or has its name."""
    about = os.stat(path)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


_LATELY = _Lately(1 << 26)  # bytes
