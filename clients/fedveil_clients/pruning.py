"""Removing what runs that have ended left in a vault: class centres, and noisy copies that no other run reads.

What stays is what refuses a second answer and what was spent: ledger, key, what runs were accepted with, the last round
of each. So a run that is removed is over: it is refused from then on, because it could not go on from where it was.
Copies are drawn again from the key when another run asks for them, bit by bit: that is no new release.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection
from pathlib import Path

from fedveil import checks
from fedveil_clients import asked, vault_folder
from fedveil_clients.vault import ENDED, Vault


@dataclasses.dataclass(frozen=True)
class Ended:
    """A run that is over: why, and the files that it leaves."""

    run_id: str
    why: str
    files: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What would be removed."""

    runs: tuple[Ended, ...]
    copies: tuple[Path, ...]
    kept: tuple[str, ...]

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(_size(path) for path in (*(path for run in self.runs for path in run.files), *self.copies))


def plan(vault: Vault, older_than: datetime.timedelta | None = None, named: Collection[str] = ()) -> Plan:
    """Return which runs have ended and what may go; nothing is changed.

    A run has ended when it was asked in every round of its schedule, or was asked last longer ago than `older_than`, or
    is named, or has ended before.

    Raises:
        fedveil.checks.UserError: no vault, or a run that it does not know, with the nearest.
    """
    vault_folder.inspect(vault.root)
    if not (vault.root / vault_folder.KEY).is_file():
        raise checks.UserError(f"There is no vault at {vault.root}, so there is nothing to remove.")
    records = {one.run_id: one for one in asked.runs_of(vault)}
    known = sorted({path.name for folder in (vault_folder.HEADS, vault_folder.ACCEPTED)
                    for path in (vault.root / folder).glob("*")})  # fmt: skip
    for run_id in named:
        if run_id not in known:
            raise checks.UserError(f"{vault.root} knows no run {run_id!r}.{checks.nearest(run_id, known)}")
    ended, kept = [], []
    for run_id in known:
        why = "named" if run_id in named else _why(vault, run_id, records.get(run_id), older_than)
        if why:
            ended.append(Ended(run_id, why, tuple(sorted((vault.root / vault_folder.HEADS / run_id).rglob("r*.npz")))))
        else:
            kept.append(run_id)
    return Plan(tuple(ended), _unread(vault, kept), tuple(kept))


def _why(vault: Vault, run_id: str, record: asked.Asked | None, older_than: datetime.timedelta | None) -> str:
    if _marker(vault, run_id).exists():
        return "over already"
    if record is not None and record.scheduled and record.rounds >= record.scheduled:
        return f"asked in all of its {record.scheduled} rounds"
    if older_than is None:
        return ""
    last = _last(vault, run_id, record)
    return f"last asked {last:%Y-%m-%d}" if datetime.datetime.now(datetime.UTC) - last > older_than else ""


def _last(vault: Vault, run_id: str, record: asked.Asked | None) -> datetime.datetime:
    """Return when a run last did something here, by its record and by its files; a simulation has no record."""
    folders = [vault.root / folder / run_id for folder in (vault_folder.HEADS, vault_folder.ACCEPTED)]
    times = [path.lstat().st_mtime for folder in folders for path in (folder, *folder.rglob("*")) if path.exists()]
    found = datetime.datetime.fromtimestamp(max(times, default=0.0), datetime.UTC)
    if record is not None:
        try:
            found = max(found, datetime.datetime.fromisoformat(record.last))
        except (ValueError, TypeError):  # a record that was edited says nothing
            return found
    return found


def _marker(vault: Vault, run_id: str) -> Path:
    return vault.root / vault_folder.ACCEPTED / run_id / ENDED


def _unread(vault: Vault, live: Collection[str]) -> tuple[Path, ...]:
    """Return the files of copies of mechanisms that no live run has; where none is live, all."""
    wanted = {
        path.read_text(encoding="ascii", errors="replace").strip()
        for run_id in live
        for path in (vault.root / vault_folder.ACCEPTED / run_id).glob("state-*")
    }
    files = vault.memo.files()
    if not live:
        return tuple(files)
    return tuple(path for path, made in files.items() if made is not None and made.hex() not in wanted)


def prune(vault: Vault, chosen: Plan) -> None:
    """Remove what was planned; a run is refused before anything of it goes, and may be pruned again after a crash."""
    for run in chosen.runs:
        vault.end(run.run_id, run.why)
        for path in run.files:
            path.unlink(missing_ok=True)
    # A run that was accepted meanwhile may read some of them: it says so before it draws.
    live = [path.name for path in (vault.root / vault_folder.ACCEPTED).glob("*")
            if not _marker(vault, path.name).exists()]  # fmt: skip
    unread = set(_unread(vault, live))
    if gone := [path for path in chosen.copies if path in unread]:
        vault.memo.forget(gone)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
