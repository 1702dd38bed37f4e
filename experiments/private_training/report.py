"""The tables of the study: accuracy against epsilon, and what each part of the recipe brings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import Arm

BASE = "image 8"
UNITS = ("image", "identity")
ORDER = ("1", "2", "4", "8", "16", "inf")


def report(done: Sequence[dict[str, Any]], arms: Mapping[str, Arm], audited: Path) -> str:
    """Return the tables in Markdown.

    Args:
        done: finished cells.
        arms: rows, in order.
        audited: file of lower bounds that `fedveil audit` found, {"UNIT EPSILON": nats}; what it lacks is "-".
    """
    lower = json.loads(audited.read_text()) if audited.exists() else {}
    by_arm = {arm: [entry for entry in done if entry["arm"] == arm] for arm in arms}
    lines = [
        "| unit | epsilon asked | proven | audited | accuracy, % | AUC, % | AUC against its start | "
        "dctdp: accuracy, AUC | s a cell | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for unit in UNITS:
        for epsilon in ORDER:
            own, noisy = by_arm.get(f"{unit} {epsilon}", []), by_arm.get(f"{unit} {epsilon}, dctdp", [])
            if own or noisy:
                bound = lower.get(f"{unit} {epsilon}", "-")
                lines.append(f"| {unit} | {epsilon} | {_proven(own or noisy)} | {bound} | {_cells(own)} | "
                             f"{mean(noisy, 'accuracy')}, {mean(noisy, 'auc')} | {_seconds(own)} |")  # fmt: skip
    lines += ["", "| arm | proven | accuracy, % | AUC, % | AUC against its start | AUC against `image 8` | numbers | "
              "s a cell | seeds |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    framed = {f"{arm}{more}" for arm in by_arm if arm.split()[0] in UNITS for more in ("", ", dctdp")}
    for arm, entries in by_arm.items():
        if entries and (arm == BASE or arm not in framed):
            against = "-" if arm == BASE or not by_arm.get(BASE) else paired(entries, by_arm[BASE], "auc")
            lines.append(f"| {arm} | {_proven(entries)} | {_cells(entries)} | {against} | "
                         f"{entries[0]['numbers']:,} | {_seconds(entries)} |")  # fmt: skip
    recipes = {json.dumps(entry["chosen"], sort_keys=True) for entry in done if entry["unit"]}
    places = ", ".join(sorted({entry["device"] for entry in done}))
    return "\n".join([*lines, "", f"On {places}. Recipes beside configs/study/private.yaml:", *sorted(recipes)])


def mean(entries: Sequence[dict[str, Any]], name: str) -> str:
    """Return the mean in percent with its standard deviation over seeds.

    >>> mean([{"auc": 0.8}, {"auc": 0.82}], "auc"), mean([], "auc")
    ('81.0 (1.4)', '-')
    """
    values = [100 * entry[name] for entry in entries]
    spread = f" ({np.std(values, ddof=1):.1f})" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}" if values else "-"


def paired(entries: Sequence[dict[str, Any]], bases: Sequence[dict[str, Any]], name: str) -> str:
    """Return the mean difference on equal seeds with its standard error over seeds, in points."""
    before = {entry["seed"]: entry[name] for entry in bases}
    return _difference([100 * (one[name] - before[one["seed"]]) for one in entries if one["seed"] in before])


def _difference(found: Sequence[float]) -> str:
    error = f" ({np.std(found, ddof=1) / np.sqrt(len(found)):.1f})" if len(found) > 1 else ""
    return f"{np.mean(found):+.1f}{error}" if found else "-"


def _cells(entries: Sequence[dict[str, Any]]) -> str:
    own = _difference([100 * (entry["auc"] - entry["start_auc"]) for entry in entries])
    return f"{mean(entries, 'accuracy')} | {mean(entries, 'auc')} | {own}"


def _proven(entries: Sequence[dict[str, Any]]) -> str:
    found = [entry["proven"] for entry in entries]
    return "none" if not found or None in found else f"{max(found):.3g}"


def _seconds(entries: Sequence[dict[str, Any]]) -> str:
    return f"{np.mean([entry['seconds'] for entry in entries]):.0f} | {len(entries)}" if entries else "- | 0"


