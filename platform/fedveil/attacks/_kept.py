"""Findings on disk: `runs/RUN_ID/attacks/NAME-DIGEST.json`, and a picture beside it where faces may be shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedveil import checks, runs
from fedveil.attacks import base
from fedveil.attacks.base import Finding
from fedveil.pictures import faces
from fedveil.runs import Run
from fedveil.storage.disk import NUMBER, Shape

_OPTIONAL = (*NUMBER, type(None))
_PEOPLE: Shape = {"people": int, "images": int, "digest": str}
_MEASURE: Shape = {
    "name": str, "value": _OPTIONAL, "said": str, "unit": str, "low": _OPTIONAL, "high": _OPTIONAL, "floor": _OPTIONAL,
    "ceiling": _OPTIONAL, "mean_face": _OPTIONAL,
}  # fmt: skip
_FINDING: Shape = {
    "run_id": str, "attack": str, "level": str, "settings": {}, "protection": str, "what": str, "verdict": str,
    "measures": [_MEASURE], "people": {}, "judge": {}, "curves": {}, "notes": [str], "seconds": NUMBER,
    "seconds_per_image": _OPTIONAL, "peak_memory_mb": NUMBER,
}  # fmt: skip


def path_of(run: Run, name: str, attack: Any) -> Path:
    """Return the file of an attack's finding on a run."""
    return run.folder / "attacks" / f"{name}-{base.digest(name, attack)}.json"


def write(run: Run, name: str, attack: Any, finding: Finding) -> dict[str, Any]:
    """Write a finding and its picture, and return what a reader finds.

    Raises:
        ValueError: no reader would take it: a fault of the attack.
    """
    path = path_of(run, name, attack)
    if wrong := _odd({"run_id": run.run_id, **finding.to_dict()}, run.run_id):
        raise ValueError(f"{name} has found what cannot be: {wrong}.")
    if finding.panel is not None:
        faces.face_grid(path.with_suffix(".png"), finding.panel, f"{finding.attack} on {finding.protection}")
    found = {"run_id": run.run_id, **finding.to_dict()}
    runs.write_json(path, found)
    return found


def read(path: Path) -> dict[str, Any]:
    """Return a finding.

    Raises:
        fedveil.checks.UserError: the file is damaged, of another run, or holds a number that cannot be.
    """
    remedy = "Remove it, and the attack is run again."
    found = runs.read_json(path, "finding of an attack", _FINDING, remedy)
    if wrong := _odd(found, path.parent.parent.name):
        raise checks.UserError(f"{path} is not a readable finding of an attack: {wrong}. {remedy}")
    return found


def _odd(finding: Mapping[str, Any], run_id: str) -> str:
    """Return why a finding is none of this run, or cannot be; empty where nothing is wrong."""
    if finding["run_id"] != run_id:
        return f"it is of run {finding['run_id']!r}"
    if wrong := runs.misfit(finding["people"], dict.fromkeys(finding["people"], _PEOPLE), "people"):
        return wrong
    names = [measure["name"] for measure in finding["measures"]]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        return f"it measures {twice} twice"
    for measure in finding["measures"]:
        name, value, low, high = (measure[key] for key in ("name", "value", "low", "high"))
        if (low is None) != (high is None) or (low is not None and (value is None or low > high)):
            return f"{name} has the interval {low} to {high}"
        if measure["unit"] == "share" and value is not None and not 0 <= value <= 1:
            return f"{name} is a share of {value}"
    return ""


def findings_of(run: Run, say: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Return all findings on a run, sorted by their files' names; a damaged one is left out, and said.

    Each also has `file`, its file's name without the suffix: the picture beside it has the same.
    """
    found = []
    for path in sorted((run.folder / "attacks").glob("*.json")):
        try:
            found.append({**read(path), "file": path.stem})
        except checks.UserError as error:
            (say or _warn)(f"left out: {error}")
    return found


def _warn(line: str) -> None:
    print(line, file=sys.stderr)
