"""Noticing an older vault: one that was restored, or is used twice, has forgotten what left its owner since.

A vault counts its answers (`sequence.json`): with each it takes a step in a chain of hashes with fresh random bytes and
notes where its ledger stands. Outside the vault, on the same machine, lies a witness: the vault's name and its last
step. A vault whose chain does not hold the witness's step is older than it, or another copy of it went on.

Before an answer leaves, first the vault takes its step, then the witness, each on disk before the next. A crash
between them leaves a vault that is one step ahead of its witness, and nothing has left: it is accepted, and an older
one, which lacks the witness's step, never is. The other order would shut an honest owner out.

A simulation has no witness: its vault answers to the same person alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from fedveil import runs
from fedveil.privacy.ledger import GENESIS, Ends
from fedveil.storage import disk
from fedveil_clients import vault_folder
from fedveil_clients.node import Node, NodeError
from fedveil_clients.steps import Steps, steps_of, write_steps
from fedveil_clients.vault import Vault

_KEPT = 64  # steps; a witness that was restored itself may be so many behind
_SEEN = {"vault": str, "number": int, "head": str}
_ADOPT = (
    "Restore the newest backup (`fedveil node restore`). If the newest state is lost, `fedveil node adopt NODE.TOML "
    "--forgotten` goes on with this one, and books that what left since is unknown"
)


class OlderVault(NodeError):
    """The vault at hand is not the newest state of itself, or nothing says that it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "This node's vault is not known to be its newest; its owner's log says why.")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a witness says: a vault's name, how many answers it had given, and its step then."""

    vault: str
    number: int
    head: str


@dataclasses.dataclass(frozen=True)
class Witness:
    """The witness of one vault; without a file, as in a simulation, it sees nothing and refuses nothing."""

    file: Path | None

    def check(self, vault: Vault) -> Steps:
        """Return how far the vault has come; nothing is written.

        Raises:
            OlderVault: the vault is not the newest state of itself, or has a past and no witness.
            NodeError: the witness can be no file there.
        """
        if self.file is None:
            return Steps()
        _usable(self.file, vault.root)
        steps, seen = steps_of(vault), self.seen()
        if seen is None:
            if steps.number:
                raise OlderVault(
                    f"The vault {vault.root} has given {steps.number} answers and its witness {self.file} is missing: "
                    "nothing says that this is its newest state. Put the file back. If nothing has left since this "
                    "state, `fedveil node adopt NODE.TOML --nothing-since` is your word for it; else say --forgotten."
                )
            return steps
        if not seen.number and not steps.number:  # no answer was given yet, by whatever vault is here
            return steps
        if not (vault.root / vault_folder.KEY).is_file() or vault.known_identity() != seen.vault:
            raise OlderVault(
                f"The witness {self.file} is of another vault than {vault.root}: the one that it has seen was deleted, "
                "moved or exchanged, and what it has spent would be forgotten. Restore that vault, or name its own "
                "vault-witness for this one. Remove the file only to begin a second account of the same faces."
            )
        if seen.head not in steps.heads:
            what = "not what its witness has seen: two copies of it were used"
            if steps.number < seen.number:
                what = f"an older state of itself ({steps.number} of {seen.number} answers)"
            raise OlderVault(
                f"The vault {vault.root} is {what}; what it has forgotten was released all the same. {_ADOPT}."
            )
        if not _held(vault, steps.ends):
            raise OlderVault(
                f"{vault.ledger.path} is older than the vault that it is in: it lacks rows that were there at the last "
                f"answer. {_ADOPT}."
            )
        return steps

    def begin(self, vault: Vault) -> None:
        """Make the witness of a vault that is about to give its first answer, before anything is booked for it."""
        if self.file is None:
            return
        own = vault.identity()
        if (seen := self.seen()) is None or (not seen.number and seen.vault != own):
            vault_folder.private_folder(self.file.parent)
            with _writing(self.file), vault_folder.alone(self.file.parent):
                if self.seen() == seen:
                    self.check(vault)
                    self._write(Seen(own, 0, GENESIS))

    def advance(self, vault: Vault) -> None:
        """Take the step of an answer that is about to leave; on disk, in the vault and outside, when this returns.

        Raises:
            OlderVault: another copy of the vault has gone on meanwhile.
            NodeError: the witness cannot be written; nothing may leave.
        """
        if self.file is None:
            return
        with _writing(self.file), vault_folder.alone(self.file.parent):
            self.step(vault, self.check(vault))

    def step(self, vault: Vault, before: Steps, past: int = 0) -> None:
        """Write the next step, the vault's first; whoever calls has looked at both and is alone.

        Args:
            vault: whose step.
            before: where it stands.
            past: the number is larger than this one.
        """
        assert self.file is not None
        with vault.ledger.read() as book:
            ends = book.ends()
        number = max(before.number, past) + 1
        fresh = [before.heads[-1], number, dataclasses.astuple(ends), secrets.token_hex(16)]
        head = hashlib.sha256(json.dumps(fresh).encode()).hexdigest()
        heads = (*before.heads, head)[-_KEPT:]
        write_steps(vault, Steps(number, heads, ends, str(self.file.absolute())))
        self._write(Seen(vault.identity(), number, head))

    def seen(self) -> Seen | None:
        """Return what the witness says; None where there is none."""
        if self.file is None or not os.path.lexists(self.file):
            return None
        found = disk.read_json(self.file, "witness of a vault", _SEEN, "Put back the newest copy of it that there is.")
        return Seen(found["vault"], found["number"], found["head"])

    def _write(self, seen: Seen) -> None:
        assert self.file is not None
        runs.write_json(self.file, dataclasses.asdict(seen), private=True)


def of_node(node: Node) -> Witness:
    """Return a node's witness: the file that it names, or one beside its vault; a simulation has none."""
    if node.simulated:
        return Witness(None)
    return Witness(Path(node.vault_witness).expanduser() if node.vault_witness else beside(node.vault()))


def of_vault(vault: Vault) -> Witness:
    """Return the witness of whoever answers with this vault, for what its owner does by hand; none without one."""
    place = steps_of(vault).witness
    return Witness(Path(place) if place else None)


def beside(root: Path) -> Path:
    """Return where the witness of a vault is unless its node says otherwise.

    >>> print(beside(Path("/srv/vault")))
    /srv/vault.witness
    """
    place = Path(os.path.abspath(root))
    return place.with_name(f"{place.name}.witness")


def _held(vault: Vault, ends: Ends) -> bool:
    if not vault.ledger.path.exists():
        return ends == Ends()
    with vault.ledger.read() as book:
        return book.holds(ends)


def _usable(file: Path, root: Path) -> None:
    """Refuse a witness that would share its vault's fate, or that nobody could write."""
    place, vault = Path(os.path.realpath(file)), Path(os.path.realpath(root))
    if place == vault or vault in place.parents:
        raise NodeError(
            f"The witness {file} is in the vault {root}, and would be restored with it; set vault-witness=FILE outside "
            "the vault, in the node's configuration.",
            "This node's vault-witness is in its vault.",
        )
    folder = next(above for above in place.parents if above.exists())
    if (place.exists() and not place.is_file()) or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(file, "it is no file, or this user cannot write into its folder")


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turn what goes wrong when the witness is written into the owner's word for it."""
    try:
        yield
    except OSError as error:
        if error.filename not in (str(file), str(file.parent)):
            raise
        raise _unwritable(file, error.strerror or str(error)) from error


def _unwritable(file: Path, why: str) -> NodeError:
    return NodeError(
        f"The witness {file} of the vault cannot be written ({why}): set vault-witness=FILE, a place on this machine "
        "outside the vault, in the node's configuration.",
        "This node's vault-witness cannot be written.",
    )
