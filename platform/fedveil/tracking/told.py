"""What a run's folder remembers of its tracking: `tracking.json`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from fedveil import checks, runs
from fedveil.runs import Run
from fedveil.storage import disk

_FORMAT = 2
"""Of what is told: a run that was told in an earlier one is told again, under the names of this one."""


@dataclasses.dataclass(frozen=True)
class Told:
    """What tracking.json holds.

    Attributes:
        parent: the sweep that the run belongs to; empty for none.
        complete: the stores that have all of the run, by `Store.key`.
        attacks: store -> the attacks on the run that it has, as `attacked.Found.version`.
    """

    parent: str = ""
    complete: tuple[str, ...] = ()
    attacks: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def attacks_at(self, store: str) -> tuple[str, ...]:
        """Return the attacks that a store has."""
        return dict(self.attacks).get(store, ())

    def with_attacks(self, store: str, versions: tuple[str, ...]) -> Told:
        """Return the same after a store was told of these attacks."""
        return dataclasses.replace(self, attacks=tuple({**dict(self.attacks), store: versions}.items()))


def read(run: Run) -> Told:
    """Return what was told; where the file is damaged, nothing: the store is asked again."""
    path = run.folder / "tracking.json"
    if not path.exists():
        return Told()
    try:
        shape: dict[str, Any] = {"parent": str, "complete": [str], "format?": int, "attacks?": {}}
        found = runs.read_json(path, "note of what was tracked", shape, "Remove it: the store is asked anew.")
        listed = found.get("attacks", {})
        if wrong := runs.misfit(listed, {store: [str] for store in listed}, "attacks"):
            raise checks.UserError(f"{path} is not a readable note of what was tracked: {wrong}.")
    except checks.UserError as error:
        warn("left out", error)
        return write(run, Told())  # said once
    if found.get("format", 1) != _FORMAT:
        return Told(found["parent"])
    attacks = tuple((store, tuple(versions)) for store, versions in listed.items())
    return Told(found["parent"], tuple(found["complete"]), attacks)


def write(run: Run, told: Told) -> Told:
    """Remember what was told; where there is no room for it, the store is asked again some day."""
    try:
        attacks = {store: [*versions] for store, versions in told.attacks}
        tree = {"parent": told.parent, "complete": [*dict.fromkeys(told.complete)], "format": _FORMAT}
        runs.write_json(run.folder / "tracking.json", tree | ({"attacks": attacks} if attacks else {}))
    except OSError as error:
        warn("Warning", error)
    return told


def warn(what: str, error: checks.UserError | OSError) -> None:
    """Say on one line what could not be tracked, and why."""
    said = disk.said(error) if isinstance(error, OSError) else error
    print(f"{what}: {said}", file=sys.stderr)
