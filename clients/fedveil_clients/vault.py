"""A client's private state: owner key, noisy copies, heads, owner's ledger. Nothing here leaves the owner.

The folder and every folder in it have mode 0700, every file 0600, from the moment they exist. Deleting it forgets the
noisy copies: the next run draws fresh noise for the same images, a second release that no ledger will remember.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, randomness, runs
from fedveil.federation.instruction import BadInstruction
from fedveil.privacy.ledger import Held, Ledger
from fedveil.storage import disk
from fedveil_clients.memo import Listed, Memo

_LOST = "Restore the vault from a backup, or start a new run: it draws new class centres."
_LAST = "Remove it: the class centres beside it say where this client stands."
_WALKED: set[Path] = set()
"""Vaults that this process has looked through: what it makes itself is closed from the start."""


@dataclasses.dataclass(frozen=True)
class Vault:
    """One node's private folder; a simulation has one for all its clients."""

    root: Path

    def create(self) -> None:
        """Make the folder with permission for its owner alone, and close what others could read in an existing one.

        Raises:
            fedveil.checks.UserError: others can read it and it belongs to another user, who alone may close it.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _is_open(self.root) or self.root not in _WALKED:
            _close(self.root)
            _WALKED.add(self.root)

    def owner_key(self) -> bytes:
        """Return the owner's memo key; drawn from the operating system at first use and kept (mode 0600)."""
        self.create()
        path = self.root / "owner.key"
        if not path.exists():
            disk.create(path, randomness.os_key(), private=True)  # another process may be first: its key is the key
        return self._read_key(path)

    def identity(self) -> str:
        """Return a name of this vault that tells nothing of what is in it: a hash of its key."""
        return self._name(self.owner_key())

    def known_identity(self) -> str:
        """Return the same of a vault that has a key, and write nothing."""
        return self._name(self._read_key(self.root / "owner.key"))

    @staticmethod
    def _name(key: bytes) -> str:
        return randomness.subkey(key, "vault identity").hex()[:32]

    def held(self, listed: Listed, size: tuple[int, int], contents: Iterable[bytes]) -> list[Held]:
        """Return what the ledger may show of a data set's pictures: hashes under the owner's key.

        Without the key nobody can tell whether a known picture, or a name, is among them. A record at another size is
        another one: it shows other pixels, and no mechanism serves both.
        """
        key = self.owner_key()
        pictures = randomness.subkeys(key, contents, before=("picture",))
        records = randomness.subkeys(key, listed.records, before=("record", listed.source), after=size)
        return [Held(picture[:16], record[:16]) for picture, record in zip(pictures, records, strict=True)]

    def picture_tags(self, contents: Iterable[bytes]) -> list[Held]:
        """Return what the ledger may show of pictures that are no records of a data set, such as a gallery's."""
        key = self.owner_key()
        return [Held(randomness.subkey(key, "picture", content)[:16]) for content in dict.fromkeys(contents)]

    def mechanism_tag(self, mechanism: bytes, source: str, kind: str = "") -> str:
        """Return the ledger's name of a mechanism whose copies this vault keeps of one source's records."""
        return randomness.subkey(self.owner_key(), "ledger mechanism", mechanism, source, kind).hex()[:32]

    @staticmethod
    def _read_key(path: Path) -> bytes:
        for _ in range(200):  # another process may be writing it right now
            key = path.read_bytes()
            if len(key) == randomness.KEY_BYTES:
                return key
            time.sleep(0.01)
        raise checks.UserError(f"{path} does not hold a {randomness.KEY_BYTES}-byte key; restore it from a backup.")

    @property
    def ledger(self) -> Ledger:
        """What the owner has spent, over all runs."""
        return Ledger(self.root / "ledger.sqlite", private=True)

    @property
    def memo(self) -> Memo:
        """The noisy copies."""
        return Memo(self.root / "copies")

    def joined(self, run_id: str, client_id: str) -> bool:
        """Return whether a client has trained in a run before."""
        return (self.root / "heads" / run_id / client_id).is_dir()

    def same_run(self, run_id: str, values: Mapping[str, str]) -> None:
        """Refuse a run that is another one than was accepted under its id.

        One acceptance stands for one configuration and, in each stage, one state of the protection. With others the
        run's id would cover draws and answers that nobody has booked.

        Args:
            run_id: the run.
            values: "configuration" and the stage -> hash.

        Raises:
            BadInstruction: naming the run.
        """
        for what, value in values.items():
            path = self._accepted(run_id, what)
            found = path.read_text(encoding="ascii", errors="replace") if path.exists() else value
            if len(found) != len(value):
                raise checks.UserError(f"{path} is damaged: it holds no hash. {_LOST}")
            if found != value:
                raise BadInstruction(f"Run {run_id} was accepted with another {what}; a new one needs a new run id.")

    def accepted(self, run_id: str, values: Mapping[str, str]) -> None:
        """Remember what a run was accepted with, as `same_run` says; on disk when this returns, and never replaced."""
        for what, value in values.items():
            path = self._accepted(run_id, what)
            if not path.exists():
                _private_folder(path.parent)
                disk.create(path, value.encode(), private=True)
        self.same_run(run_id, values)  # another process may have been first

    def _accepted(self, run_id: str, what: str) -> Path:
        return self.root / "accepted" / run_id / what.replace(" ", "-")

    def in_order(self, run_id: str, client_id: str, round_number: int, sent: str) -> None:
        """Refuse a round before the last one asked, and the last one again unless the same was sent.

        A coordinator that was interrupted asks its last round again, with the same tensors, and gets the same answer.
        Anything else would be more answers than the schedule has.

        Args:
            run_id: the run.
            client_id: whose rounds.
            round_number: the round that is asked.
            sent: hash of everything that an answer depends on (`received.tensors_of`).

        Raises:
            BadInstruction: naming both rounds.
        """
        path = self._last(run_id, client_id)
        if not path.is_file():
            return
        newest = path.read_text(encoding="ascii", errors="replace").strip().rpartition("\n")[2]
        last, _, before = newest.partition(" ")
        if not last.isdigit():
            raise checks.UserError(f"{path} is damaged: it does not say which round was last. {_LAST}")
        if round_number < int(last) or (round_number == int(last) and sent != before):
            again = f"after round {last}"
            if round_number == int(last):
                again = "again with another configuration, state or other tensors"
            raise BadInstruction(f"Round {round_number} of run {run_id} was asked {again}; rounds go forward.")

    def begin(self, run_id: str, client_id: str, round_number: int, sent: str, durable: bool = True) -> None:
        """Remember a round before anything is computed in it; of two questions at once one is refused (`in_order`).

        Raises:
            BadInstruction: as `in_order`.
        """
        path = self._last(run_id, client_id)
        _private_folder(path.parent)
        with _alone(path.parent):
            self.in_order(run_id, client_id, round_number, sent)
            line = f"{round_number} {sent}\n"
            if durable:
                runs.write_atomic(path, line.encode(), private=True)
            else:  # replacing a file makes some file systems write it out at once, every round of every client
                disk.append(path, line)

    def _last(self, run_id: str, client_id: str) -> Path:
        return self.root / "heads" / run_id / client_id / "last"

    def heads(self, run_id: str, client_id: str, phase: str = "") -> Heads:
        """Return the versions of one client's class centres in one run, of the recogniser or of a phase before it."""
        return Heads(self.root / "heads" / run_id / client_id / phase)


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

    def before(self, round_number: int) -> NDArray[np.float32] | None:
        """Return the centres (K, D) of the newest round before `round_number`, or None."""
        past = {version: path for version, path in self._versions().items() if version < round_number}
        if not past:
            return None
        return _centres(past[max(past)], self.what)

    def save(self, round_number: int, centres: NDArray[np.float32]) -> None:
        """Store the centres after `round_number` and drop versions that no round can ask for any more."""
        _private_folder(self.folder)
        path = self.folder / f"r{round_number:06d}.npz"
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
    arrays, _ = runs.unpack(path, f"file of {what}", _LOST)
    found = arrays.get("centres")
    if found is None or found.dtype != np.float32 or found.ndim != 2 or not np.isfinite(found).all():
        shown = "no centres" if found is None else f"{found.dtype} {found.shape} or values that are not finite"
        raise checks.UserError(f"{path} is not a readable file of {what}: it holds {shown}. {_LOST}")
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


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block for the same folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_open(path: Path) -> bool:
    """Return whether others than the owner may use a file or folder; a link's target is not looked at."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        return not stat.S_ISLNK(mode) and bool(mode & 0o077)
    return False


def _close(root: Path) -> None:
    """Take a vault from everybody but its owner, and say what was open."""
    odd = [path for path in [root, *root.rglob("*")] if _is_open(path)]
    for path in odd:
        try:
            found = path.lstat()
        except FileNotFoundError:  # another process's temporary file
            continue
        if found.st_uid != os.geteuid():
            raise checks.UserError(
                f"{path} belongs to another user (id {found.st_uid}) and others can use it (mode "
                f"{stat.S_IMODE(found.st_mode):o}); its owner must close it (chmod -R go= {root}), or choose another "
                "vault.root."
            )
        os.chmod(path, 0o700 if stat.S_ISDIR(found.st_mode) else 0o600)
    if odd:
        print(f"vault {root}: closed to others what they could use: {_listed(odd)}", file=sys.stderr)


def _listed(paths: list[Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner alone; `mkdir -p` closes the last only."""
    if path.is_dir():
        return
    for folder in [*reversed(path.parents), path]:
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
