"""What an owner was asked, run by run, and what came of it: for its own page, and to know which runs have ended.

One small file a run in the vault (mode 0600), written as it happens; nothing of it leaves. A simulation keeps none.
Whoever asks under ever new names fills no disk: of runs that were never accepted the oldest go first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Callable
from pathlib import Path

from fedveil import checks
from fedveil.federation import instruction
from fedveil.storage import disk
from fedveil_clients import vault_folder
from fedveil_clients.received import Instruction
from fedveil_clients.vault import Vault

MOST = 1000  # runs
_REASON = 2000  # characters
_SHAPE = {
    "run_id": str, "client": str, "first": str, "last": str, "configuration": str, "method": str, "scheduled": int,
    "rounds": int, "newest": int, "accepted": bool, "refusals": int, "reason": str,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Asked:
    """One run as this owner has seen it.

    Attributes:
        run_id: the run.
        client: which client of the registry it was asked as; empty where it was refused before that was known.
        first: UTC time of the first message that names it.
        last: and of the last one.
        configuration: hash of the configuration, `instruction.digest`; empty where none could be read.
        method: its protection or generator.
        scheduled: rounds of its schedule.
        rounds: different rounds in which this owner was asked to train.
        newest: the last of them.
        accepted: whether a round was begun.
        refusals: how many messages were answered with a refusal or a failure.
        reason: the last one's, in full.
    """

    run_id: str
    client: str = ""
    first: str = ""
    last: str = ""
    configuration: str = ""
    method: str = ""
    scheduled: int = 0
    rounds: int = 0
    newest: int = 0
    accepted: bool = False
    refusals: int = 0
    reason: str = ""


def called(vault: Vault, told: Instruction, client: str) -> None:
    """Remember a question at the roll call, or a round that is about to begin.

    What an accepted run is stays as it was: at the roll call nothing compares what is sent with what was accepted.
    """

    def change(before: Asked) -> Asked:
        new = told.round > before.newest
        known = before if before.accepted and not told.round else _of(before, told, client)
        return dataclasses.replace(
            known, rounds=before.rounds + new, newest=max(before.newest, told.round),
            accepted=before.accepted or told.round > 0,
        )  # fmt: skip

    _change(vault, told.run_id, change)


def refused(root: Path, run_id: str, reason: str, told: Instruction | None, client: str) -> None:
    """Remember that a message was not answered as it wanted; a refusal makes no vault.

    What an accepted run is stays as it was, whatever is asked in its name.
    """

    def change(before: Asked) -> Asked:
        known = before if told is None or before.accepted else _of(before, told, client)
        return dataclasses.replace(known, refusals=before.refusals + 1, reason=reason[:_REASON])

    if run_id and (root / vault_folder.KEY).is_file():
        _change(Vault(root), run_id, change)


def _of(before: Asked, told: Instruction, client: str) -> Asked:
    run = told.run
    return dataclasses.replace(
        before, client=client, configuration=instruction.digest(run), method=run.settings.method,
        scheduled=run.total_rounds,
    )  # fmt: skip


def runs_of(vault: Vault) -> list[Asked]:
    """Return what is remembered, the run that was asked first coming first; a damaged file is left out."""
    folder = vault.root / vault_folder.ASKED
    found = [_read(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []
    return sorted((one for one in found if one is not None), key=lambda one: (one.first, one.run_id))


def _read(path: Path) -> Asked | None:
    try:
        found = disk.read_json(path, "record of a run", _SHAPE)
        return Asked(**{name: found[name] for name in _SHAPE})
    except (checks.UserError, OSError):
        return None


def _change(vault: Vault, run_id: str, change: Callable[[Asked], Asked]) -> None:
    """Write one run's record; what cannot be written is not worth losing an answer for."""
    folder = vault.root / vault_folder.ASKED
    with contextlib.suppress(OSError):
        vault_folder.private_folder(folder)
        path = folder / f"{run_id}.json"
        with vault_folder.alone(folder):
            at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            before = (_read(path) if path.exists() else None) or Asked(run_id, first=at)
            if not path.exists():
                _make_room(folder)
            after = dataclasses.replace(change(before), last=at)
            disk.place(path, json.dumps(dataclasses.asdict(after)).encode())


def _make_room(folder: Path) -> None:
    paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in paths if len(paths) >= MOST else ():
        found = _read(path)
        if found is None or not found.accepted:
            path.unlink(missing_ok=True)
            return
