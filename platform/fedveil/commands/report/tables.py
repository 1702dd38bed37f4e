"""The same numbers for programs: methods.csv, a line per setting, and attacks.csv, a line per measure of an attack.

A number that is not there is an empty field, never 0; the column of the attack says `not run` or `not measured`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from fedveil.attacks.base import LEAKS
from fedveil.commands._groups import UNITS
from fedveil.commands.report import words
from fedveil.commands.report.rows import Row

_MEASURE = ("name", "value", "low", "high", "floor", "ceiling", "mean_face", "unit", "said")


def methods(found: Sequence[Row]) -> bytes:
    """Return methods.csv: epsilon is `inf` without a guarantee, empty where nothing is stated of a unit."""
    return _csv([_method(row) for row in found])


def attacks(found: Sequence[Row], hidden: bool) -> bytes:
    """Return attacks.csv; with `hidden` without durations. Only the head where nobody attacked."""
    rows = [
        {"method": row.method, "budget": row.budget, "run_id": seen.run.run_id, "seed": seen.values.get("seed"),
         "attack": finding["attack"], "level": finding["level"], "file": finding["file"],
         "settings": json.dumps(finding["settings"]), **{key: measure[key] for key in _MEASURE},
         "seconds": None if hidden else finding["seconds"], "verdict": finding["verdict"]}
        for row in found for seen in row.runs for finding in seen.findings for measure in finding["measures"]
    ]  # fmt: skip
    about = ["method", "budget", "run_id", "seed", "attack", "level", "file", "settings"]
    head = [*about, *_MEASURE, "seconds", "verdict"]
    return _csv(rows, head)


def _method(row: Row) -> dict[str, Any]:
    made: dict[str, Any] = {"method": row.method, "budget": row.budget, "seeds": len(row.runs)}
    made |= {"accuracy_mean": row.group.mean, "accuracy_sd": row.group.sd, "guessing": row.collapsed}
    for unit in UNITS:
        one = row.statements.get(unit, {})
        made[f"{unit}_epsilon"] = "inf" if one and one["epsilon"] is None else one.get("epsilon")
        made |= {f"{unit}_{key}": one.get(key) for key in ("delta", "relation", "view", "meaningful")}
    for name in LEAKS:
        leak = row.leaks[name]
        measure = {} if leak is None else leak.measure
        made |= {name: measure.get("value")}
        made |= {f"{name}_{key}": measure.get(key) for key in ("low", "high", "floor", "ceiling")}
        made[f"{name}_attack"] = row.lacking(name) if leak is None else leak.finding["attack"]
        made[f"{name}_run"] = None if leak is None else leak.seen.run.run_id
    return made | {"attacks": " ".join(row.attacks), "not_run": " ".join(row.not_run), "verdict": words.verdict(row)}


def _csv(rows: Sequence[dict[str, Any]], head: Sequence[str] | None = None) -> bytes:
    written = io.StringIO()
    writer = csv.DictWriter(written, head or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _field(value) for key, value in row.items()} for row in rows)
    return written.getvalue().encode()


def _field(value: Any) -> Any:
    """Return a field that a spreadsheet takes for text where it is text: a formula from outside is none here."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
