"""The tables of the study: one for each size, model and number of passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def paired(entries: list[dict[str, Any]], bases: list[dict[str, Any]], name: str) -> str:
    """Return the mean difference on equal seeds with its standard error over seeds, in points.

    >>> one = [{"seed": seed, "auc": value} for seed, value in ((1, 0.82), (2, 0.84), (3, 0.86))]
    >>> paired(one, [{**entry, "auc": 0.8} for entry in one], "auc"), paired(one[:1], one[1:], "auc")
    ('+4.0 (1.2)', '-')
    """
    before = {entry["seed"]: entry[name] for entry in bases}
    found = [100 * (entry[name] - before[entry["seed"]]) for entry in entries if entry["seed"] in before]
    if not found:
        return "-"
    error = f"{np.std(found, ddof=1) / np.sqrt(len(found)):.1f}" if len(found) > 1 else "-"
    return f"{np.mean(found):+.1f} ({error})"


def table(done: list[dict[str, Any]], arms: Sequence[str], base_of: Callable[[str], str]) -> str:
    """Return a Markdown table per size, model and number of passes.

    Args:
        done: finished cells.
        arms: rows, in order.
        base_of: arm -> the arm that it is compared with.
    """
    parts = []
    for kind in sorted({_kind(entry) for entry in done}):
        here = [entry for entry in done if _kind(entry) == kind]
        size, model, passes = kind
        places = ", ".join(sorted({entry["device"] for entry in here}))
        lines = [
            f"{size} px, {model}, {passes} passes, {places}:", "",
            "| arm | compared with | accuracy, % | AUC, % | accuracy against it, points (s.e.) | AUC against it | "
            "flips at evaluation: accuracy, AUC | CPU s a cell | seeds |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for arm in arms:
            cells = [entry for entry in here if entry["arm"] == arm]
            if cells:
                other = base_of(arm)
                lines.append(_row(arm, cells, other, [entry for entry in here if entry["arm"] == other != arm]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _kind(entry: dict[str, Any]) -> tuple[int, str, int]:
    return entry["size"], entry["model"], entry["passes"]


def _row(arm: str, cells: list[dict[str, Any]], other: str, against: list[dict[str, Any]]) -> str:
    mean = {name: 100 * np.mean([entry[name] for entry in cells]) for name in ("accuracy", "auc")}
    flips = ", ".join(
        paired([{**entry, name: entry[f"flip_{name}"]} for entry in cells], cells, name) for name in ("accuracy", "auc")
    )
    return (
        f"| {arm} | {other if against else '-'} | {mean['accuracy']:.1f} | {mean['auc']:.1f} | "
        f"{paired(cells, against, 'accuracy')} | {paired(cells, against, 'auc')} | {flips} | "
        f"{np.mean([entry['cpu_seconds'] for entry in cells]):.0f} | {len(cells)} |"
    )
