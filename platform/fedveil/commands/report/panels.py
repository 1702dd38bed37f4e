"""From rows to the panels that page and picture draw: accuracy against budgets, and against what attacks recover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedveil.commands._groups import UNITS
from fedveil.commands.report.rows import Row
from fedveil.pictures.tradeoff import Panel, Spot
from fedveil.privacy.statements import MEANINGFUL

LEAKS: Mapping[str, tuple[str, str]] = {
    "linked": ("Re-identification", "linked to another photograph of the same person"),
    "replayed": ("Replay", "recovered faces that the deployed system accepts"),
    "ssim": ("Recovered faces", "similarity of recovered and true face (SSIM)"),
}
"""Measure -> what a panel plots, and the label below its axis."""


def panels(rows: Sequence[Row]) -> list[Panel]:
    """Return a panel for each unit that has an epsilon, and one for each measure that an attack took."""
    made = []
    for unit in UNITS:
        formal = [row.statements[unit] for row in rows if unit in row.statements]
        said = sorted({f"{one['relation']}, delta {one['delta']:g}" for one in formal if one["epsilon"] is not None})
        if said:
            spots = tuple(
                Spot(row.method, row.place, row.statements.get(unit, {}).get("epsilon"), None, None,
                     row.group.mean, row.group.sd) for row in rows
            )  # fmt: skip
            across = f"epsilon of one {unit}, nats ({'; '.join(said)})"
            made.append(Panel(unit, f"Budget of one {unit}", across, spots, True, MEANINGFUL))
    return made + [panel for name in LEAKS if (panel := _leak(rows, name)) is not None]


def _leak(rows: Sequence[Row], name: str) -> Panel | None:
    found = [(row, leak) for row in rows if (leak := row.leaks[name]) is not None]
    if not found:
        return None
    title, across = LEAKS[name]
    spots = tuple(
        Spot(row.method, row.place, leak.value, leak.measure["low"], leak.measure["high"], row.group.mean,
             row.group.sd) for row, leak in found
    )  # fmt: skip
    ends = {}
    for end in ("floor", "ceiling"):
        known = [leak.measure[end] for _, leak in found if leak.measure[end] is not None]
        ends[end] = (min(known), max(known)) if known else None
    title = f"{title}, strongest attack that was run"
    return Panel(name, title, across, spots, False, floor=ends["floor"], ceiling=ends["ceiling"])
