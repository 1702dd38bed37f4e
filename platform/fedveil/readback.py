"""What a run's folder holds, read back and checked: configuration, checkpoint, ledger, vaults, result.

A file that is damaged is refused with its name, what is wrong and what to do; where many runs are looked through,
it is left out with a note.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedveil import checks, config, runs
from fedveil.configuration.schema import Config
from fedveil.privacy.ledger import GENESIS, Ledger
from fedveil.privacy.statements import Statement
from fedveil.runs import Arrays, Run
from fedveil.storage.disk import NUMBER, Shape

_OPTIONAL = (*NUMBER, type(None))
_CLAIM: Shape = {"unit": str, "relation": str, "epsilon": _OPTIONAL, "delta": _OPTIONAL}
_ROUND: Shape = {
    "round": int, "accuracy": _OPTIONAL, "statements": [{**_CLAIM, "view?": str}], "bytes_expected": NUMBER,
    "seconds?": NUMBER, "eer?": _OPTIONAL, "tar?": {}, "phase?": str,
}  # fmt: skip
_WARM: Shape = {"round": int, "accuracy": NUMBER, "eer": _OPTIONAL}
_CHECKPOINT: Shape = {
    "round": int, "history": [_ROUND], "stage?": int, "seconds?": NUMBER, "config_hash?": str, "memory?": {},
    "ledger_head?": str, "warm_start?": _WARM,
}  # fmt: skip
_RESULT: Shape = {
    "run_id": str,
    "config_hash": str,
    "rounds": [_ROUND],
    "final": {"accuracy": NUMBER, "fold_sd": _OPTIONAL, "draw_sd": _OPTIONAL, "eer": _OPTIONAL, "auc": _OPTIONAL,
              "tar": {}},
    "statements": [{**_CLAIM, "view": str, "mechanism": str, "guarantee": str, "meaningful": bool,
                    "assumptions": [str], "not_covered": [str]}],
    "model_sha256": str,
    "private": bool,
    "device?": str,
    "wall_seconds?": NUMBER,
    "peak_memory_mb?": NUMBER,
    "warm_start?": _WARM,
    "collapsed?": bool,
}  # fmt: skip

EVERYBODY = "every client"
"""Stands in vaults.json for the whole registry of a simulation, which has one vault."""


def settings_of(run: Run) -> Config:
    """Return the configuration that a run began with.

    Raises:
        fedveil.checks.UserError: config.json is damaged or holds what this version does not know.
    """
    remedy = "Restore it from a backup, or start a new run."
    tree = runs.read_json(run.config, "configuration", {}, remedy)
    try:
        return config.parse(tree)
    except checks.UserError as error:
        raise checks.UserError(f"{run.config}: {error} {remedy}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # blocks that are no blocks
        raise checks.UserError(f"{run.config} is not a readable configuration: {error}. {remedy}") from error


def checkpoint_of(run: Run) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of a run's checkpoint by their names, and what describes them; of none, nothing and round 0.

    Raises:
        fedveil.checks.UserError: it is damaged.
    """
    if not run.checkpoint.exists():
        return {}, {"round": 0, "history": []}
    remedy = "Restore it from a backup, or start a new run."
    arrays, meta = runs.unpack(run.checkpoint, remedy=remedy)
    if wrong := runs.misfit(meta, _CHECKPOINT, ""):
        raise checks.UserError(f"{run.checkpoint} is not a readable fedveil checkpoint: {wrong}. {remedy}")
    return arrays, meta


def ledger_of(run: Run) -> Ledger:
    """Return the ledger of a run, which holds the row that its checkpoint was written after.

    Raises:
        fedveil.checks.UserError: the checkpoint is damaged, or the ledger was edited, cut, emptied or replaced.
    """
    ledger = Ledger(run.ledger)
    ledger.head()
    ledger.check_holds(str(checkpoint_of(run)[1].get("ledger_head", GENESIS)))
    return ledger


def at_owners(run: Run) -> bool:
    """Return whether a run trained at owners' nodes: there is nobody on this machine whom it trained on.

    Raises:
        fedveil.checks.UserError: vaults.json is damaged.
    """
    return any(client != EVERYBODY for client in vaults_of(run))


def vaults_of(run: Run) -> dict[str, str]:
    """Return which vault each client began with, by client; none where nothing was written yet.

    Raises:
        fedveil.checks.UserError: vaults.json is damaged.
    """
    path = run.folder / "vaults.json"
    if not path.exists():
        return {}
    remedy = "Restore it from a backup, or remove it if every client still has the vault that the run began with."
    found = runs.read_json(path, "list of vaults", {}, remedy)
    if wrong := runs.misfit(found, dict.fromkeys(found, str), ""):
        raise checks.UserError(f"{path} is not a readable list of vaults: {wrong}. {remedy}")
    return found


def result_of(run: Run) -> dict[str, Any]:
    """Return what a finished run found.

    Raises:
        fedveil.checks.UserError: the run has not ended, or result.json is damaged.
    """
    again = f"`fedveil simulate --resume {run.run_id}`"
    if not run.result.exists():
        raise checks.UserError(f"Run {run.run_id} has not ended; {again} goes on with it.")
    remedy = f"Remove it and {again} writes it again."
    found = runs.read_json(run.result, "result", _RESULT, remedy)
    if wrong := _torn(found):
        raise checks.UserError(f"{run.result} is not a readable result: {wrong}. {remedy}")
    return found


def _torn(result: Mapping[str, Any]) -> str:
    """Return what is missing beside what is there: fields that stand together or not at all; empty for nothing."""
    times = [name for name in ("wall_seconds", "peak_memory_mb") if name in result]
    if len(times) == 1:
        return f"it holds {times[0]} alone of wall_seconds and peak_memory_mb"
    listed = [("statements", result["statements"])]
    listed += [(f"rounds[{number}].statements", one["statements"]) for number, one in enumerate(result["rounds"])]
    for place, claims in listed:
        for number, claim in enumerate(claims):
            if claim["epsilon"] is not None and claim["delta"] is None:
                return f"{place}[{number}] has an epsilon and no delta"
    return ""


def statement_of(data: Mapping[str, Any]) -> Statement:
    """Return a statement of result.json."""
    fields = {field.name: data[field.name] for field in dataclasses.fields(Statement)}
    listed = {name: tuple(data[name]) for name in ("assumptions", "not_covered")}
    return Statement(**{**fields, **listed})


def finished(root: Path, say: Callable[[str], None] | None = None) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Yield every finished run of a store with its result; a damaged one is left out, and said."""
    for path in sorted(root.glob("*/result.json")):
        try:
            run = Run(root, path.parent.name)
            yield run, result_of(run)
        except checks.UserError as error:
            (say or _warn)(f"left out: {error}")


def _warn(line: str) -> None:
    print(line, file=sys.stderr)
