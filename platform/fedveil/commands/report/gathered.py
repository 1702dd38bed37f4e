"""Everything a report is made of, read from the run store: the runs of a sweep, or one run, as far as each has come.

A run that is not finished, failed, or has a damaged file is no error here: it is listed with what is wrong with it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedveil import checks, config, readback, runs
from fedveil.attacks import _kept
from fedveil.commands import _groups
from fedveil.configuration.schema import Config
from fedveil.privacy.ledger import Ledger
from fedveil.runs import Run
from fedveil.storage.disk import NUMBER, Shape

_CELL: Shape = {
    "run_id": str, "values": {}, "state": str, "reason": str, "accuracy": (*NUMBER, type(None)),
}  # fmt: skip
_SWEEP: Shape = {"sweep_id": str, "state": str, "words": [str], "grid": {}, "cells": [_CELL]}
_HASHED = re.compile(r"sweep-[0-9a-f]{8}")


@dataclasses.dataclass(frozen=True)
class Seen:
    """One run, as far as its folder tells.

    Attributes:
        run: its folder.
        values: swept values, the seed among them; of a run of no sweep, its seed alone.
        state: finished, or what it is instead.
        reason: why it is not finished, or what of it is damaged; empty where nothing is wrong.
        settings: None where they cannot be read; never so of a finished run.
        result: result.json's content; of a finished run alone.
        findings: what attacks on it found (`attacks._kept.findings_of`).
        head: hash of its ledger's last row; empty where the chain is broken, which `reason` says.
    """

    run: Run
    values: Mapping[str, str]
    state: str
    reason: str = ""
    settings: Config | None = None
    result: Mapping[str, Any] | None = None
    findings: tuple[Mapping[str, Any], ...] = ()
    head: str = ""

    @property
    def hides_times(self) -> bool:
        """Whether how long it took is a secret: durations tell who took part."""
        return self.settings is None or self.settings.privacy.client is not None


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What a report is about.

    Attributes:
        target: a sweep's or a run's id.
        folder: where it is.
        words: a sweep's own words; None for a run.
        runs: every run, in the grid's order.
        left_out: a sentence for each file that could not be read.
    """

    target: str
    folder: Path
    words: tuple[str, ...] | None
    runs: tuple[Seen, ...]
    left_out: tuple[str, ...]

    @property
    def finished(self) -> list[Seen]:
        """The runs that have a result."""
        return [seen for seen in self.runs if seen.result is not None]

    @property
    def settings(self) -> list[list[Seen]]:
        """The finished runs, those that differ in their seed alone together."""
        return _groups.over_seeds(self.finished, lambda seen: seen.values)

    @property
    def hides_times(self) -> bool:
        """Whether durations of one run are a secret, so that no time of the target is shown."""
        return any(seen.hides_times for seen in self.runs)

    @property
    def name_option(self) -> str:
        """What names the sweep beside its words: nothing where its id is the hash of its grid."""
        return "" if _HASHED.fullmatch(self.target) else f" --name {self.target.removeprefix('sweep-')}"


def gather(root: Path, target: str) -> Gathered:
    """Return what the run store holds of a sweep or a run.

    Raises:
        fedveil.checks.UserError: neither is there (with the nearest id), a sweep's list of runs is damaged, or nothing
            of it has finished.
    """
    left_out: list[str] = []
    folder = Run(root, target).folder
    if (folder / "sweep.json").exists():
        remedy = "Run the same `fedveil sweep` again: it finds what is finished and writes the list anew."
        tree = runs.read_json(folder / "sweep.json", "list of a sweep's runs", _SWEEP, remedy)
        for cell in tree["cells"]:
            if wrong := runs.misfit(cell["values"], dict.fromkeys(cell["values"], str), "values"):
                raise checks.UserError(f"{folder / 'sweep.json'} is not a readable list of runs: {wrong}. {remedy}")
        seen = [_seen(Run(root, c["run_id"]), c["values"], c["state"], c["reason"], left_out.append)
                for c in tree["cells"]]  # fmt: skip
        found = Gathered(target, folder, tuple(tree["words"]), tuple(seen), tuple(left_out))
        again = " ".join(["`fedveil sweep", *tree["words"]]) + f"{found.name_option}` goes on with it"
    else:
        if not (folder / "config.json").exists():
            names = {path.parent.name for name in ("config.json", "sweep.json") for path in root.glob(f"*/{name}")}
            raise checks.UserError(f"No run or sweep {target!r} in {root}.{checks.nearest(target, sorted(names))}")
        one = _seen(runs.open_run(root, target), {}, "unfinished", "", left_out.append)
        found = Gathered(target, folder, None, (one,), tuple(left_out))
        again = one.reason or f"`fedveil simulate --resume {target}` goes on with it"
    if not found.finished:
        raise checks.UserError(f"Nothing of {target} has finished, so there is nothing to report: {again.rstrip('.')}.")
    return found


def _seen(run: Run, values: Mapping[str, str], state: str, reason: str, say: Callable[[str], None]) -> Seen:
    """Return a run with its result where it has one, whatever a list says of it."""
    settings = None
    try:
        if run.config.exists():
            settings = readback.settings_of(run)
            values = values or {"seed": str(settings.seed)}
        result = readback.result_of(run) if run.result.exists() else None
        if result is not None and settings is None:
            raise checks.UserError(f"{run.config} is missing. Restore it from a backup, or start a new run.")
        if result is not None and settings is not None and result["config_hash"] != config.digest(settings):
            raise checks.UserError(f"{run.result} is the result of another configuration than {run.config}.")
    except checks.UserError as error:
        say(f"left out: {error}")
        return Seen(run, values, "damaged", str(error), settings)
    if result is None:
        ended = "unfinished" if state == "finished" else state
        return Seen(run, values, ended, reason, settings)
    head, broken = "", ""
    try:
        if not run.ledger.exists():
            raise checks.UserError(f"{run.ledger} is missing.")
        head = Ledger(run.ledger).head()
    except checks.UserError as error:
        broken = f"{error} What the run says of itself has nothing behind it any more."
        say(broken)
    return Seen(run, values, "finished", broken, settings, result, tuple(_kept.findings_of(run, say)), head)


def attacked(seen: Sequence[Seen]) -> list[tuple[Seen, Mapping[str, Any]]]:
    """Return every finding with the run that it is of."""
    return [(one, finding) for one in seen for finding in one.findings]
