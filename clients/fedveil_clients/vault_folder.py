"""The folder of a vault: what it must be before it is used, and closing it to everybody but its owner.

A folder is looked at before anything in it is changed. One that holds something else was mistyped, and a vault that
lost its key or its ledger would begin a second account of the same faces, so both are refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedveil import checks

KEY, LEDGER, COPIES, HEADS, ACCEPTED = "owner.key", "ledger.sqlite", "copies", "heads", "accepted"
ASKED, SEQUENCE, BACKUP, FORGOTTEN = "asked", "sequence.json", "backup.json", "forgotten.json"
_FILES, _FOLDERS = (KEY, LEDGER), (COPIES, HEADS, ACCEPTED)
_ELSE = ("refusals.log", "refusals.log.old", ASKED, SEQUENCE, BACKUP, FORGOTTEN)
_BESIDE = tuple(f"{name}-" for name in _FILES) + tuple(f".{name}." for name in _FILES)
"""Beginnings of what SQLite and a write that is under way keep beside a file."""


def inspect(root: Path) -> None:
    """Refuse a folder that cannot be an owner's vault, or no longer is all of it; nothing is changed.

    Raises:
        fedveil.checks.UserError: naming the folder, what is wrong and the remedy.
    """
    if not os.path.lexists(root):
        return
    if not root.is_dir():
        raise checks.UserError(f"The vault {root} is no folder; name another one (vault.root, at a node vault-root).")
    # Copies are looked for first: another process that draws some has written its ledger before.
    drawn = any((root / COPIES).glob("*.npy")) or any((root / HEADS).glob("*/*"))
    names = sorted(path.name for path in root.iterdir())
    for name in names:
        odd = (name in _FILES and not (root / name).is_file()) or (name in _FOLDERS and not (root / name).is_dir())
        if odd:
            kind = "file" if name in _FILES else "folder"
            raise checks.UserError(f"{root / name} is no {kind}, as it is in a vault; restore it from a backup.")
    foreign = [name for name in names if not _is_known(name)]
    if KEY not in names and foreign:
        raise checks.UserError(
            f"The vault {root} is a folder of something else: it holds {foreign[0]} and no {KEY}. A vault is closed to "
            "others, so nothing is changed; name a new or an empty folder (vault.root, at a node vault-root)."
        )
    made = [name for name in names if name == LEDGER] + [COPIES, HEADS] * drawn
    if KEY not in names and made:
        raise checks.UserError(
            f"{root / KEY} is missing beside what it made ({made[0]}): another key would draw new noise for the same "
            "faces, and the ledger would not know them again. Restore it from a backup, or move the whole vault away."
        )
    if LEDGER not in names and drawn:
        raise checks.UserError(
            f"{root / LEDGER} is missing beside what it accounts for: a new one would forget what was spent. Restore "
            "it from a backup, or move the whole vault away to begin a new account."
        )


def _is_known(name: str) -> bool:
    return name in (*_FILES, *_FOLDERS, *_ELSE) or name.startswith(_BESIDE)


def apart(root: Path, data: str | None) -> None:
    """Refuse a vault among the pictures that it protects, or the other way round.

    Raises:
        fedveil.checks.UserError: naming both.
    """
    if not data or "\0" in data:
        return
    vault, faces = (Path(os.path.realpath(place)) for place in (root, data))
    if vault == faces or faces in vault.parents or vault in faces.parents:
        raise checks.UserError(
            f"The vault {root} and the faces {data} are one folder, or one is inside the other; keep them apart "
            "(vault.root or data.root, at a node vault-root or data-root)."
        )


def usable(words: Mapping[str, Any]) -> None:
    """Refuse what a simulation would refuse once it had begun: its vault, by the words of its nodes."""
    root = Path(words["vault-root"])
    apart(root, words.get("data-root"))
    inspect(root)


def is_open(path: Path) -> bool:
    """Return whether others than the owner may use a file or folder; a link's target is not looked at."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        return not stat.S_ISLNK(mode) and bool(mode & 0o077)
    return False


def close(root: Path) -> None:
    """Take a vault from everybody but its owner, and say what was open.

    Raises:
        fedveil.checks.UserError: others can read it and it belongs to another user, who alone may close it.
    """
    odd = [path for path in [root, *root.rglob("*")] if is_open(path)]
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


def private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner alone; `mkdir -p` closes the last only."""
    if path.is_dir():
        return
    for folder in [*reversed(path.parents), path]:
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block for the same folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
