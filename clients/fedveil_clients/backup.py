"""A vault as one sealed file, and back: what refuses a second answer and draws the same noise again, and no picture.

What is in it: the key, the ledger, what runs were accepted with, rounds and class centres, the count of answers, what
was asked and refused. Noisy copies are left out unless they are asked for: the key draws each of them again, bit by
bit, which is no new release (`memo`).

A node may answer meanwhile. The count of answers is read first and while none can leave, so all else in the file is as
new; databases are copied by SQLite; copies never change once they are written.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fedveil
from fedveil import checks, randomness, runs
from fedveil.privacy.ledger import Ledger
from fedveil.storage import databases
from fedveil_clients import sealed, vault_folder, witness
from fedveil_clients.vault import Vault
from fedveil_clients.witness import Witness

_ABOUT, _HASHES = "about.json", "hashes.json"
_FILES = (vault_folder.KEY, vault_folder.FORGOTTEN, "refusals.log", "refusals.log.old")
_FOLDERS = (vault_folder.ACCEPTED, vault_folder.ASKED, vault_folder.HEADS)
_KNOWN = (*_FILES, *_FOLDERS, vault_folder.SEQUENCE, vault_folder.LEDGER, vault_folder.COPIES)
_INDEX = f"{vault_folder.COPIES}/index.sqlite"


def save(vault: Vault, seen: Witness, out: Path, passphrase: str, copies: bool = False) -> int:
    """Write a vault to one sealed file (mode 0600), whole or not at all, and return its size in bytes.

    Raises:
        fedveil.checks.UserError: no vault, one that is not its newest state, or a file that is there already.
        OSError: naming the file; nothing is left of the attempt.
    """
    vault_folder.inspect(vault.root)
    if not (vault.root / vault_folder.KEY).is_file():
        raise checks.UserError(f"There is no vault at {vault.root} yet: a node makes it when it first takes part.")
    if os.path.lexists(out):
        raise checks.UserError(f"{out} is there already; name a new file, and remove old backups when it is written.")
    if Path(os.path.realpath(vault.root)) in Path(os.path.realpath(out)).parents:
        raise checks.UserError(f"{out} is in the vault that it is a backup of; name a place elsewhere.")
    steps = seen.check(vault)
    made: list[int] = [steps.number]

    def write(stream: BinaryIO) -> None:
        sealing = sealed.Sealing(stream, passphrase)
        with tarfile.open(fileobj=sealing, mode="w|") as archive:  # type: ignore[call-overload]  # it has `write`
            packing = _Packing(archive)
            with contextlib.nullcontext() if seen.file is None else vault_folder.alone(_folder(seen.file)):
                made[0] = seen.check(vault).number
                _pack(packing, vault, made[0], copies)
            if copies:
                _pack_copies(packing, vault.root)
            packing.add(_HASHES, json.dumps(packing.hashes).encode())
        sealing.close()

    runs.write_atomic(out, write, private=True)
    runs.write_json(vault.root / vault_folder.BACKUP, {"at": _now(), "number": made[0], "file": str(out.absolute())},
                    private=True)  # fmt: skip
    return out.stat().st_size


def _folder(file: Path) -> Path:
    return next(above for above in file.absolute().parents if above.is_dir())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class _Packing:
    """An archive that is being written, and the hash of everything in it."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive, self.hashes = archive, dict[str, str]()

    def add(self, name: str, data: bytes) -> None:
        about = tarfile.TarInfo(name)
        about.size, about.mode = len(data), 0o600
        self._archive.addfile(about, io.BytesIO(data))
        self.hashes[name] = hashlib.sha256(data).hexdigest()


def _pack(packing: _Packing, vault: Vault, number: int, copies: bool) -> None:
    """Add everything but the copies, the count of answers first."""
    root = vault.root
    about = {"version": fedveil.__version__, "vault": vault.known_identity(), "number": number, "at": _now(),
             "copies": copies}  # fmt: skip
    packing.add(_ABOUT, json.dumps(about).encode())
    for name in (vault_folder.SEQUENCE, *_FILES):
        if (root / name).is_file():
            packing.add(name, (root / name).read_bytes())
    if (root / vault_folder.LEDGER).exists():
        packing.add(vault_folder.LEDGER, _database(root / vault_folder.LEDGER, "ledger"))
    for folder in _FOLDERS:
        for inner in sorted({path.parent for path in (root / folder).rglob("*")}):
            for path, data in _contents(inner):
                packing.add(path.relative_to(root).as_posix(), data)


def _contents(folder: Path) -> list[tuple[Path, bytes]]:
    """Return the files of a folder as they are together; a round that ends meanwhile replaces some."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            names = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
            # What `disk.place` is writing has a number behind its name and becomes another file when it is whole.
            return [(path, path.read_bytes()) for path in names if not _unfinished(path.name)]
    raise checks.UserError(f"{folder} does not stand still; stop the node, or try again.")


def _unfinished(name: str) -> bool:
    return name.startswith(".") or (".npz." in name) or name.endswith((".tmp", "-journal"))


def _pack_copies(packing: _Packing, root: Path) -> None:
    if not (root / _INDEX).exists():
        return
    packing.add(_INDEX, _database(root / _INDEX, "index of noisy copies"))
    for path in sorted((root / vault_folder.COPIES).glob("*.npy")):
        with contextlib.suppress(FileNotFoundError):  # pruned meanwhile: it is drawn again
            packing.add(path.relative_to(root).as_posix(), path.read_bytes())


def _database(path: Path, what: str) -> bytes:
    """Return one consistent state of an SQLite file, whoever writes to it."""
    with (
        databases.errors_named(path, what, "Restore it from an earlier backup."),
        contextlib.closing(sqlite3.connect(path, timeout=60.0)) as source,
        contextlib.closing(sqlite3.connect(":memory:")) as target,
    ):
        source.backup(target)
        return target.serialize()


def restore(file: Path, root: Path, passphrase: str) -> dict[str, Any]:
    """Make the vault that a backup holds in a new folder beside `root`, check all of it, and say what it is.

    Returns:
        `vault` (identity), `number` of answers, `at`, `copies`, and `place`, the folder, which `place` puts where it
        belongs or `shutil.rmtree` removes.

    Raises:
        fedveil.checks.UserError: there is a vault already; or the file is no backup, damaged, or of another passphrase.
    """
    if os.path.lexists(root) and (not root.is_dir() or any(root.iterdir())):
        raise checks.UserError(
            f"{root} is there already, and a vault is never replaced: what it has spent would be forgotten. Move it "
            "away first, or restore to another vault-root."
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
                if member.name in (_ABOUT, _HASHES):
                    found[member.name] = data
                    continue
                _write(place, member.name, data)
                written[member.name] = ""
        opening.read()  # what follows the archive is checked as well
        hashes, about = json.loads(found[_HASHES]), json.loads(found[_ABOUT])
    except (tarfile.TarError, ValueError, KeyError, EOFError) as error:
        raise checks.UserError(f"{file} is no backup of a vault, or is damaged: {error}.") from error
    for name in written:  # as it lies on disk now
        written[name] = hashlib.sha256((place / name).read_bytes()).hexdigest()
    if {**written, _ABOUT: hashlib.sha256(found[_ABOUT]).hexdigest()} != hashes:
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
    if (vault.known_identity(), witness.steps_of(vault).number) != (about.get("vault"), about.get("number")):
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
    """Put a restored vault where it belongs; an empty folder there gives way."""
    os.rename(place, root)
    handle = os.open(root.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
