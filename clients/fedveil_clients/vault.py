"""A client's private state: owner key, noisy copies, heads, owner's ledger. Nothing here leaves the owner.

The folder and every folder in it have mode 0700, every file 0600, from the moment they exist. Deleting it forgets the
noisy copies: the next run draws fresh noise for the same images, a second release that no ledger will remember.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, randomness, runs
from fedveil.federation.instruction import BadInstruction
from fedveil.privacy.ledger import Held, Ledger
from fedveil.storage import disk
from fedveil_clients import vault_folder
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
            fedveil.checks.UserError: it is no vault, or not all of one (see `vault_folder.inspect`); or others can read
                it and it belongs to another user, who alone may close it.
        """
        place = self.root.absolute()
        known = place in _WALKED and place.is_dir()
        if not known:
            vault_folder.inspect(self.root)
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not known or vault_folder.is_open(self.root):
            vault_folder.close(self.root)
            _WALKED.add(place)

    def owner_key(self) -> bytes:
        """Return the owner's memo key; drawn from the operating system at first use and kept (mode 0600)."""
        self.create()
        path = self.root / vault_folder.KEY
        if not path.exists():
            vault_folder.inspect(self.root)  # it may have been lost since the vault was opened
            disk.create(path, randomness.os_key(), private=True)  # another process may be first: its key is the key
        return self._read_key(path)

    def identity(self) -> str:
        """Return a name of this vault that tells nothing of what is in it: a hash of its key."""
        return self._name(self.owner_key())

    def known_identity(self) -> str:
        """Return the same of a vault that has a key, and write nothing."""
        vault_folder.inspect(self.root)
        return self._name(self._read_key(self.root / vault_folder.KEY))

    @staticmethod
    def _name(key: bytes) -> str:
        return randomness.subkey(key, "vault identity").hex()[:32]

    def held(self, listed: Listed, size: tuple[int, int], contents: Iterable[bytes]) -> list[Held]:
        """Return what the ledger may show of a data set's pictures: hashes under the owner's key.

        Without the key nobody can tell whether a known picture, or a name, is among them. A record at another size is
        another one: it shows other pixels, and no mechanism serves both.
        """
        key = self.owner_key()
        return [
            Held(
                randomness.subkey(key, "picture", content)[:16],
                randomness.subkey(key, "record", listed.source, record, *size)[:16],
            )
            for record, content in zip(listed.records, contents, strict=True)
        ]

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
        return Ledger(self.root / vault_folder.LEDGER, private=True)

    @property
    def memo(self) -> Memo:
        """The noisy copies."""
        return Memo(self.root / vault_folder.COPIES)

    def joined(self, run_id: str, client_id: str) -> bool:
        """Return whether a client has trained in a run before."""
        return (self.root / vault_folder.HEADS / run_id / client_id).is_dir()

    def in_order(self, run_id: str, client_id: str, round_number: int, sent: str) -> None:
        """Refuse a round before the last answered one, and the last one again unless the same was sent.

        A coordinator that was interrupted asks its last round again, with the same tensors, and gets the same answer.
        Anything else would be more answers than the schedule has.

        Raises:
            BadInstruction: naming both rounds.
        """
        path = self._last(run_id, client_id)
        if not path.is_file():
            return
        last, _, before = path.read_text(encoding="ascii", errors="replace").strip().partition(" ")
        if not last.isdigit():
            raise checks.UserError(f"{path} is damaged: it does not say which round was last. {_LAST}")
        if round_number < int(last) or (round_number == int(last) and sent != before):
            again = "with other tensors" if round_number == int(last) else f"after round {last}"
            raise BadInstruction(f"Round {round_number} of run {run_id} was asked {again}; rounds go forward.")

    def answered(self, run_id: str, client_id: str, round_number: int, sent: str) -> None:
        """Remember the last round that this client has answered, and a hash of what had been sent."""
        path = self._last(run_id, client_id)
        runs.write_atomic(path, f"{round_number} {sent}\n".encode(), private=True, durable=False)

    def _last(self, run_id: str, client_id: str) -> Path:
        return self.root / vault_folder.HEADS / run_id / client_id / "last"

    def heads(self, run_id: str, client_id: str, phase: str = "") -> Heads:
        """Return the versions of one client's class centres in one run, of the recogniser or of a phase before it."""
        return Heads(self.root / vault_folder.HEADS / run_id / client_id / phase)


@dataclasses.dataclass(frozen=True)
class Heads:
    """Versions of one client's class centres, one file per round joined.

    The coordinator commits round r by sending round r + 1: a client at round r reads the newest version before r, so a
    round interrupted at any point is simply run again, and older versions than the one read are never needed again.
    """

    folder: Path

    def _versions(self) -> dict[int, Path]:
        return {int(path.stem[1:]): path for path in self.folder.glob("r*.npz") if path.stem[1:].isdigit()}

    def before(self, round_number: int) -> NDArray[np.float32] | None:
        """Return the centres (K, D) of the newest round before `round_number`, or None."""
        past = {version: path for version, path in self._versions().items() if version < round_number}
        if not past:
            return None
        path = past[max(past)]
        arrays, _ = runs.unpack(path, "file of class centres", _LOST)
        found = arrays.get("centres")
        if found is None or found.dtype != np.float32 or found.ndim != 2 or not np.isfinite(found).all():
            shown = "no centres" if found is None else f"{found.dtype} {found.shape} or values that are not finite"
            raise checks.UserError(f"{path} is not a readable file of class centres: it holds {shown}. {_LOST}")
        return found

    def save(self, round_number: int, centres: NDArray[np.float32]) -> None:
        """Store the centres after `round_number` and drop versions that no round can ask for any more."""
        _private_folder(self.folder)
        data = runs.pack({"centres": centres}, {"round": round_number})
        runs.write_atomic(self.folder / f"r{round_number:06d}.npz", data, private=True, durable=False)
        versions = self._versions()
        kept = max((v for v in versions if v < round_number), default=round_number)
        for version, path in versions.items():
            if version < kept:
                path.unlink(missing_ok=True)


def _private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner alone; `mkdir -p` closes the last only."""
    for folder in [*reversed(path.parents), path]:
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
