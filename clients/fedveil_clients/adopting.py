"""Going on with a vault that nothing shows to be its newest state: on its owner's word, or with the loss booked.

What left after the state that is at hand is not in its ledger. Where the owner says that nothing has, that word is
taken, and only where no witness knows better. Else what left is unknown, so it is booked as infinite, for every account
of the vault, those that it is yet to see included (`ensure`); and the runs that it knows are over, because it does not
know which of their rounds were answered.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable
from pathlib import Path

from fedveil import checks, runs
from fedveil.privacy import totals
from fedveil.privacy.events import NonPrivate
from fedveil.privacy.ledger import Book, Row
from fedveil.storage import disk
from fedveil_clients import node, refusals, unpacking, vault_folder
from fedveil_clients.steps import steps_of, write_steps
from fedveil_clients.vault import Vault
from fedveil_clients.witness import OlderVault, Witness

_RUN = "(forgotten)"  # no coordinator's run can be called so
_SHAPE = {"at": str, "number": int}


def adopt(vault: Vault, seen: Witness, forgotten: bool) -> str:
    """Make the vault at hand the newest again, and return what was done, in a sentence.

    Args:
        vault: of a real node.
        seen: its witness.
        forgotten: answers that the vault does not know may have left; else the owner's word that none did.

    Raises:
        fedveil.checks.UserError: there is nothing to adopt, no vault, another vault's witness, or a word that the
            witness knows to be wrong.
    """
    if seen.file is None:
        raise checks.UserError("A simulation's vault has no witness, so there is nothing to adopt.")
    if not (vault.root / vault_folder.KEY).is_file():
        raise checks.UserError(f"There is no vault at {vault.root}; restore one first (`fedveil node restore`).")
    vault_folder.private_folder(seen.file.absolute().parent)
    with vault_folder.alone(seen.file.absolute().parent):
        if not forgotten and seen.seen() is not None and not _older(vault, seen):
            raise checks.UserError(f"The vault {vault.root} is its newest state already; there is nothing to adopt.")
        _permitted(vault, seen, forgotten)
        known, steps = seen.seen(), steps_of(vault)
        if forgotten:
            _forget(vault)
        seen.step(vault, steps, 0 if known is None else known.number)
    if not forgotten:
        return f"The vault {vault.root} is taken for its newest state, on your word that nothing has left since."
    return (
        f"The vault {vault.root} goes on. What left after its answer {steps.number} is booked as unknown: every total "
        "of it is infinite from now on, limits over runs refuse, and the runs that it knows are over."
    )


def _older(vault: Vault, seen: Witness) -> str:
    """Return why a vault is not known to be its newest state; empty where it is."""
    try:
        seen.check(vault)
    except OlderVault as reason:
        return str(reason)
    return ""


def _unseen(said: str, seen: Witness) -> str:
    """Return why a backup is not known to be the newest state where there is no witness, of whatever answer it is."""
    if seen.file is None or seen.seen() is not None:
        return ""
    return (
        f"Nothing says that {said} is the newest state of its vault: its witness {seen.file} is missing. Put the file "
        "back. If nothing has left since, --nothing-since is your word for it; else say --forgotten."
    )


def _permitted(vault: Vault, seen: Witness, forgotten: bool) -> None:
    """Refuse what the witness knows to be wrong.

    Raises:
        fedveil.checks.UserError: it is another vault's, or has seen what this one has not.
    """
    known = seen.seen()
    if known is not None and known.number and known.vault != vault.known_identity():
        raise checks.UserError(
            f"The witness {seen.file} is of another vault than {vault.root}; name this vault's own vault-witness."
        )
    if known is not None and not forgotten:
        raise checks.UserError(
            f"The witness {seen.file} has seen answers that {vault.root} does not know, so --nothing-since cannot be "
            "true. Restore a newer backup, or say --forgotten."
        )
    steps = steps_of(vault)
    last = Witness(Path(steps.witness) if steps.witness and not forgotten else None)
    other = last.seen()
    if other is not None and other.vault == vault.known_identity() and other.head not in steps.heads:
        raise checks.UserError(
            f"{last.file}, the witness of {vault.root} until its answer {steps.number}, has seen later ones, so "
            "--nothing-since cannot be true. Restore a newer backup, or say --forgotten."
        )


def _forget(vault: Vault) -> None:
    """Book the loss and end the runs; each part may be done already, by an attempt that was interrupted."""
    path = vault.root / vault_folder.FORGOTTEN
    if not path.exists():
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        runs.write_json(path, {"at": at, "number": steps_of(vault).number}, private=True)
    with vault.ledger.write() as book:
        names = {row.subject for row in book.rows()} | book.recorded()
        _book(book, sorted(names), _reason(vault))
    for folder in (vault_folder.ACCEPTED, vault_folder.HEADS):
        if (vault.root / folder).is_dir():
            for run in sorted(one.name for one in (vault.root / folder).iterdir()):
                vault.end(run, "forgotten")


def ensure(vault: Vault, data_set: str) -> None:
    """Book the loss for an account that such a vault sees for the first time; on disk when this returns."""
    if not (vault.root / vault_folder.FORGOTTEN).exists():
        return
    reason = _reason(vault)
    if all(vault.ledger.has(row) for row in _rows(data_set, reason)):
        return
    with vault.ledger.write() as book:
        _book(book, [data_set], reason)


def _reason(vault: Vault) -> str:
    found = disk.read_json(vault.root / vault_folder.FORGOTTEN, "note of a loss", _SHAPE, "Restore it from a backup.")
    return f"an older vault was adopted ({found['at']}); what left after its answer {found['number']} is unknown"


def _rows(data_set: str, reason: str) -> list[Row]:
    image, client = (NonPrivate(unit, totals.FORGOTTEN, reason) for unit in ("image", "client"))
    return [Row(_RUN, data_set, "spent", image), Row(_RUN, data_set, "reserved", client)]


def _book(book: Book, data_sets: Iterable[str], reason: str) -> None:
    book.append(row for name in data_sets for row in _rows(name, reason) if not book.has(row))


def restore(
    file: Path, vault: Vault, seen: Witness, passphrase: str, own: Path, nothing_since: bool, forgotten: bool
) -> str:
    """Make a vault from a backup, unless it is older than what its witness has seen, and return what was done.

    Args:
        file: a backup.
        vault: where it shall be; there is none yet.
        seen: its witness.
        passphrase: of the file.
        own: the node's file of words: a refusal goes into the log beside it.
        nothing_since: the owner's word that nothing has left since, where there is no witness to ask.
        forgotten: go on with an older state, the loss booked.

    Raises:
        OlderVault: it is not known to be the newest state, and neither word was said. Nothing is left then.
        fedveil.checks.UserError: as `unpacking.restore`, or a word that the witness knows to be wrong.
    """
    with unpacking.unpacked(file, vault.root, passphrase) as found:
        unpacked, said = Vault(found["place"]), f"the backup {file} of {found['at']}"
        older = _older(unpacked, seen).replace(str(unpacked.root), f"in {said}") or _unseen(said, seen)
        if older and not (forgotten or nothing_since):
            refusals.record({}, "", older, {node.FILE: str(own)})
            raise OlderVault(older)
        if older:
            _permitted(unpacked, seen, forgotten)
        unpacking.put(found["place"], vault.root)
    sentences = [f"restored {vault.root} from {said}, answer {found['number']}."]
    if not found["copies"]:
        sentences.append("Noisy copies are drawn again when they are asked for, the same ones: no new release.")
    if older:
        sentences.append(adopt(vault, seen, forgotten))
    elif seen.file is not None:
        write_steps(vault, dataclasses.replace(steps_of(vault), witness=str(seen.file.absolute())))
    return " ".join(sentences)
