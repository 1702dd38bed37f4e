"""A client's private state: owner key, noisy copies, heads, owner's ledger. Nothing here leaves the owner.

The folder and every folder in it have mode 0700, every file 0600, from the moment they exist. Deleting it forgets the
noisy copies: the next run draws fresh noise for the same images, a second release that no ledger will remember.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedveil import checks, randomness, runs
from fedveil.federation.instruction import BadInstruction
from fedveil.privacy.ledger import Held, Ledger
from fedveil.storage import disk
from fedveil_clients import vault_folder
from fedveil_clients.heads import LOST, Heads
from fedveil_clients.memo import Listed, Memo
from fedveil_clients.vault_folder import private_folder

ENDED = "ended"
"""Stands among what a run was accepted with when it is over."""
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
        return Ledger(self.root / vault_folder.LEDGER, private=True)

    @property
    def memo(self) -> Memo:
        """The noisy copies."""
        return Memo(self.root / vault_folder.COPIES)

    def joined(self, run_id: str, client_id: str) -> bool:
        """Return whether a client has trained in a run before."""
        return (self.root / vault_folder.HEADS / run_id / client_id).is_dir()

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
                raise checks.UserError(f"{path} is damaged: it holds no hash. {LOST}")
            if found != value:
                raise BadInstruction(f"Run {run_id} was accepted with another {what}; a new one needs a new run id.")

    def accepted(self, run_id: str, values: Mapping[str, str]) -> None:
        """Remember what a run was accepted with, as `same_run` says; on disk when this returns, and never replaced."""
        for what, value in values.items():
            path = self._accepted(run_id, what)
            if not path.exists():
                private_folder(path.parent)
                disk.create(path, value.encode(), private=True)
        self.same_run(run_id, values)  # another process may have been first

    def not_ended(self, run_id: str) -> None:
        """Refuse a run that has ended at this owner: what it went on from was removed, or forgotten.

        Raises:
            BadInstruction: naming the run.
        """
        if self._accepted(run_id, ENDED).exists():
            raise BadInstruction(f"Run {run_id} has ended at this owner and is not taken up again; start a new run.")

    def end(self, run_id: str, why: str) -> None:
        """Refuse a run from now on (`not_ended`); on disk when this returns."""
        path = self._accepted(run_id, ENDED)
        private_folder(path.parent)
        disk.create(path, why.encode(), private=True)

    def _accepted(self, run_id: str, what: str) -> Path:
        return self.root / vault_folder.ACCEPTED / run_id / what.replace(" ", "-")

    def in_order(self, run_id: str, client_id: str, round_number: int, sent: str) -> bool:
        """Refuse a round before the last one asked, and the last one again unless the same was sent.

        A coordinator that was interrupted asks its last round again, with the same tensors, and gets the same answer.
        Anything else would be more answers than the schedule has.

        Args:
            run_id: the run.
            client_id: whose rounds.
            round_number: the round that is asked.
            sent: hash of everything that an answer depends on (`received.tensors_of`).

        Returns:
            Whether it is the last one again.

        Raises:
            BadInstruction: naming both rounds.
        """
        path = self._last(run_id, client_id)
        if not path.is_file():
            return False
        newest = path.read_text(encoding="ascii", errors="replace").strip().rpartition("\n")[2]
        last, _, before = newest.partition(" ")
        if not last.isdigit():
            raise checks.UserError(f"{path} is damaged: it does not say which round was last. {_LAST}")
        if round_number < int(last) or (round_number == int(last) and sent != before):
            again = f"after round {last}"
            if round_number == int(last):
                again = "again with another configuration, state or other tensors"
            raise BadInstruction(f"Round {round_number} of run {run_id} was asked {again}; rounds go forward.")
        return round_number == int(last)

    def begin(self, run_id: str, client_id: str, round_number: int, sent: str, durable: bool = True) -> bool:
        """Remember a round before anything is computed in it; of two questions at once one is refused (`in_order`).

        Returns:
            Whether the same round began before: it was interrupted, or is asked again.

        Raises:
            BadInstruction: as `in_order`.
        """
        path = self._last(run_id, client_id)
        private_folder(path.parent)
        with vault_folder.alone(path.parent):
            again = self.in_order(run_id, client_id, round_number, sent)
            # Whoever lost `last` still has the class centres that the round ended with.
            again = again or self.heads(run_id, client_id).of(round_number).exists()
            line = f"{round_number} {sent}\n"
            if durable:
                runs.write_atomic(path, line.encode(), private=True)
            else:  # replacing a file makes some file systems write it out at once, every round of every client
                disk.append(path, line)
        return again

    def _last(self, run_id: str, client_id: str) -> Path:
        return self.root / vault_folder.HEADS / run_id / client_id / "last"

    def heads(self, run_id: str, client_id: str, phase: str = "") -> Heads:
        """Return the versions of one client's class centres in one run, of the recogniser or of a phase before it."""
        return Heads(self.root / vault_folder.HEADS / run_id / client_id / phase)
