"""A vault as one sealed file: what refuses a second answer and draws the same noise again, and no picture.

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
import sqlite3
import tarfile
from pathlib import Path
from typing import BinaryIO

import fedveil
from fedveil import checks, runs
from fedveil.storage import databases
from fedveil_clients import sealed, vault_folder
from fedveil_clients.vault import Vault
from fedveil_clients.witness import Witness

ABOUT, HASHES = "about.json", "hashes.json"
FILES = (vault_folder.KEY, vault_folder.FORGOTTEN, "refusals.log", "refusals.log.old")
FOLDERS = (vault_folder.ACCEPTED, vault_folder.ASKED, vault_folder.HEADS)
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
            packing.add(HASHES, json.dumps(packing.hashes).encode())
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
    packing.add(ABOUT, json.dumps(about).encode())
    for name in (vault_folder.SEQUENCE, *FILES):
        if (root / name).is_file():
            packing.add(name, (root / name).read_bytes())
    if (root / vault_folder.LEDGER).exists():
        packing.add(vault_folder.LEDGER, _database(root / vault_folder.LEDGER, "ledger"))
    for folder in FOLDERS:
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
