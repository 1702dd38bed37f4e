"""A vault from the file that `backup` wrote: whole, checked, and in its place only then."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedveil import checks, randomness, runs
from fedveil.privacy.ledger import Ledger
from fedveil_clients import refusals, sealed, vault_folder
from fedveil_clients.backup import ABOUT, FILES, FOLDERS, HASHES
from fedveil_clients.steps import steps_of
from fedveil_clients.vault import Vault

_LOGS = (refusals.OLD, refusals.NAME)  # a node that has lost its vault writes here that it refuses, and nothing else
_KNOWN = (*FILES, *FOLDERS, vault_folder.SEQUENCE, vault_folder.LEDGER, vault_folder.COPIES)


def restore(file: Path, root: Path, passphrase: str) -> dict[str, Any]:
    """Make the vault that a backup holds in a new folder beside `root`, check all of it, and say what it is.

    Returns:
        `vault` (identity), `number` of answers, `at`, `copies`, and `place`, the folder, which `place` puts where it
        belongs or `shutil.rmtree` removes.

    Raises:
        fedveil.checks.UserError: there is a vault already; or the file is no backup, damaged, or of another passphrase.
    """
    if os.path.lexists(root) and (not root.is_dir() or any(path.name not in _LOGS for path in root.iterdir())):
        raise checks.UserError(
            f"{root} is there already, and a vault is never replaced: what it has spent would be forgotten. Move it "
            "away first, or restore to another vault-root."
        )
    if os.path.ismount(root):
        raise checks.UserError(
            f"{root} is a mount point, and a vault appears as a whole folder: restore it where it is mounted from, or "
            "to a folder below it, and name that one as vault-root."
        )
    vault_folder.private_folder(root.absolute().parent)
    place = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.absolute().parent))
    try:
        with file.open("rb") as stream:
            about = _unpack(sealed.Opening(stream, passphrase, file), place, file)
        _checked(Vault(place), about, file)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return {**about, "place": place}


def _unpack(opening: sealed.Opening, place: Path, file: Path) -> dict[str, Any]:
    found: dict[str, bytes] = {}
    written: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=opening, mode="r|") as archive:  # type: ignore[call-overload]  # it has `read`
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is None:
                    raise ValueError(f"{member.name!r} is no file")
                data = stream.read()
                if member.name in (ABOUT, HASHES):
                    found[member.name] = data
                    continue
                _write(place, member.name, data)
                written[member.name] = ""
        opening.read()  # what follows the archive is checked as well
        hashes, about = json.loads(found[HASHES]), json.loads(found[ABOUT])
    except (tarfile.TarError, ValueError, KeyError, EOFError) as error:
        raise checks.UserError(f"{file} is no backup of a vault, or is damaged: {error}.") from error
    for name in written:  # as it lies on disk now
        written[name] = hashlib.sha256((place / name).read_bytes()).hexdigest()
    if {**written, ABOUT: hashlib.sha256(found[ABOUT]).hexdigest()} != hashes:
        raise checks.UserError(f"{file} is damaged: what it holds is not what was packed.")
    whole: dict[str, Any] = about
    return whole


def _write(place: Path, name: str, data: bytes) -> None:
    parts = name.split("/")
    if parts[0] not in _KNOWN or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError(f"{name!r} is no part of a vault")
    path = place / name
    vault_folder.private_folder(path.parent)
    runs.write_atomic(path, data, private=True)


def _checked(vault: Vault, about: dict[str, Any], file: Path) -> None:
    """Refuse what is no whole vault: a key of another length, a broken chain, a count of another vault."""
    key = vault.root / vault_folder.KEY
    if not key.is_file() or key.stat().st_size != randomness.KEY_BYTES:
        raise checks.UserError(f"{file} holds no key of a vault.")
    Ledger(vault.ledger.path).heads()
    Ledger(vault.ledger.path).content_heads()
    if (vault.known_identity(), steps_of(vault).number) != (about.get("vault"), about.get("number")):
        raise checks.UserError(f"{file} says that it is of another vault than it holds.")


@contextlib.contextmanager
def unpacked(file: Path, root: Path, passphrase: str) -> Iterator[dict[str, Any]]:
    """Yield `restore`'s; what has not been put in its place by the end is removed."""
    found = restore(file, root, passphrase)
    try:
        yield found
    finally:
        shutil.rmtree(found["place"], ignore_errors=True)


def put(place: Path, root: Path) -> None:
    """Put a restored vault where it belongs; an empty folder gives way, and a log there goes on in the vault's."""
    for log in (root / name for name in _LOGS if (root / name).is_file()):
        refusals.append(place / refusals.NAME, log.read_text(encoding="utf-8", errors="replace"))
        log.unlink()
    os.rename(place, root)
    handle = os.open(root.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
