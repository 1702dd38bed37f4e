"""What a sweep found: accuracy against epsilon per setting, as table, CSV, picture and JSON."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedveil import console, runs, tracking
from fedveil.commands import _groups
from fedveil.commands._groups import UNITS, Group, statement_of
from fedveil.commands.sweep import described, grid, total
from fedveil.commands.sweep.sweep import Outcome, Sweep
from fedveil.pictures import frontier as pictures_frontier
from fedveil.privacy.statements import MEANINGFUL
from fedveil.tracking import overview


def unit_of(axes: Mapping[str, Sequence[str]]) -> str:
    """Return whose epsilon is the axis: the unit whose budget is swept; an image's when none is.

    >>> unit_of({"privacy.client.epsilon": ("1", "inf"), "protection": ("none", "dctdp")})
    'client'
    """
    swept = {key.split(".")[1] for key in axes if key.startswith("privacy.")}
    return next((unit for unit in UNITS if unit in swept), "image")


def groups(outcomes: Sequence[Outcome], unit: str) -> list[Group]:
    """Return the finished runs grouped over seeds, in the grid's order."""
    done = [(outcome.cell.values, outcome.result) for outcome in outcomes if outcome.result is not None]
    found = _groups.over_seeds(done, lambda one: one[0])
    return [_groups.group(same[0][0], [result for _, result in same], unit) for same in found]


def lines(found: Sequence[Group], unit: str) -> dict[str, list[pictures_frontier.Point]]:
    """Return the picture's series: one per protection and per every other swept value that is no budget of the axis."""
    swept = any(key.startswith(f"privacy.{unit}.") for group in found for key in group.values)
    budget = f"privacy.{unit}." if swept or unit != "image" else "protection."  # a release's, or private training's
    made: dict[str, list[pictures_frontier.Point]] = {}
    for group in found:
        kept = {k: v for k, v in group.values.items() if not (k.startswith(budget) and k.endswith("epsilon"))}
        name = grid.label(kept) if kept else "all runs"
        made.setdefault(name, []).append(
            pictures_frontier.Point(group.epsilon, group.mean, group.sd, len(group.accuracies))
        )
    return made


def axis(found: Sequence[Group], unit: str) -> str:
    """Return the words below the picture's axis: whose epsilon, which relation, which delta."""
    formal = [group.statement for group in found if group.statement and group.statement["epsilon"] is not None]
    of = f"epsilon of one {unit}"
    if not formal:
        return of
    said = sorted({f"{statement['relation']}, delta {statement['delta']:g}" for statement in formal})
    return f"{of} ({'; '.join(said)}), nats"


def table(found: Sequence[Group], unit: str) -> str:
    """Return the frontier as text, 80 columns."""
    rows = [f"{'':<31}{'n':>3} {'accuracy':>15} {f'{unit} epsilon':>15} {'delta':>7}"]
    for group in found:
        sd = f" ± {100 * group.sd:.1f}" if group.sd is not None else ""
        epsilon = "none (infinite)" if group.epsilon is None else f"{group.epsilon:.6g}"
        mark = "*" if group.epsilon is not None and group.epsilon > MEANINGFUL else " "
        delta = "" if group.statement is None or group.statement["delta"] is None else f"{group.statement['delta']:g}"
        name = textwrap.shorten(grid.label(group.values) if group.values else "all", 31, placeholder="...")
        accuracy = f"{100 * group.mean:.1f}{sd} %"
        rows.append(f"{name:<31}{len(group.accuracies):>3} {accuracy:>15} {epsilon:>15}{mark}{delta:>7}")
    return "\n".join(rows)


def explained(found: Sequence[Group], unit: str) -> list[str]:
    """Return what the table's numbers are, in sentences."""
    notes = ["accuracy: mean ± 1 standard deviation over n seeds (n - 1 in the denominator)"]
    formal = [group.statement for group in found if group.statement and group.statement["epsilon"] is not None]
    for relation, view in sorted({(statement["relation"], statement["view"]) for statement in formal}):
        notes.append(f"epsilon: {unit} level, {relation}, in nats, against anyone who sees {view}")
    if any(statement["epsilon"] > MEANINGFUL for statement in formal):
        notes.append(f"* above {MEANINGFUL:g}: formally true, no meaningful protection")
    return notes


def write(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[Path]:
    """Write runs.csv, and frontier.csv and frontier.png once a run has finished; return the files."""
    unit = unit_of(sweep.grid.axes)
    found = groups(outcomes, unit)
    made = [_csv(sweep.folder / "runs.csv", [_run_row(sweep, outcome) for outcome in outcomes])]
    if found:
        made.append(_csv(sweep.folder / "frontier.csv", [_group_row(sweep, group, unit) for group in found]))
        series, below = lines(found, unit), axis(found, unit)
        made.append(pictures_frontier.frontier(sweep.folder / "frontier.png", series, below, MEANINGFUL))
    return made


def _run_row(sweep: Sweep, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"run_id": outcome.run_id, "state": outcome.state}
    row |= {key: outcome.cell.values.get(key, "") for key in sweep.grid.axes}
    final = outcome.result["final"] if outcome.result else {}
    row |= {name: final.get(name) for name in ("accuracy", "fold_sd", "draw_sd", "eer")}
    for unit in UNITS:
        statement = statement_of(outcome.result, unit) if outcome.result else None
        row |= {f"{unit}_epsilon": _number(statement), f"{unit}_delta": statement["delta"] if statement else None}
    timed = outcome.result is not None and outcome.cell.settings.privacy.client is None  # times tell who took part
    seconds = outcome.result.get("wall_seconds") if outcome.result is not None and timed else None
    return row | {"seconds": seconds, "reason": outcome.reason}


def _group_row(sweep: Sweep, group: Group, unit: str) -> dict[str, Any]:
    statement = group.statement or {}
    row: dict[str, Any] = {key: group.values.get(key, "") for key in sweep.grid.axes if key != "seed"}
    row |= {"unit": unit, "epsilon": _number(group.statement), "delta": statement.get("delta")}
    row |= {"relation": statement.get("relation"), "meaningful": statement.get("meaningful", False)}
    return row | {"seeds": len(group.accuracies), "accuracy_mean": group.mean, "accuracy_sd": group.sd}


def _number(statement: Mapping[str, Any] | None) -> float | str | None:
    """Return an epsilon for a CSV file: `inf` without a guarantee, empty without a statement."""
    if statement is None:
        return None
    return "inf" if statement["epsilon"] is None else float(statement["epsilon"])


def _csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    runs.write_atomic(path, text.getvalue().encode())
    return path


def finish(sweep: Sweep, outcomes: Sequence[Outcome], tracker: tracking.Tracker) -> tuple[str, dict[str, Any]]:
    """Write and track everything that a sweep found; return the closing text and the same as plain JSON types."""
    unit = unit_of(sweep.grid.axes)
    found = groups(outcomes, unit)
    spent, all_public = total.totals(outcomes)
    said = total.sentences(spent, all_public, sweep.fixed)
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    failed = [f"{outcome.cell.label} failed: {outcome.reason}" for outcome in failures]
    files = write(sweep, outcomes)
    for path in (*files, sweep.folder / "sweep.json"):
        tracker.log_artifact(path)
    done = sum(outcome.state == "finished" for outcome in outcomes)
    tracker.log_round(0, {"runs_finished": float(done), "runs_failed": float(len(failures))})
    note = described.found(sweep, found, unit, explained(found, unit), [*said, *failed])
    tracker.log_tags({"fedveil.owners_total": "; ".join(said), "fedveil.axis": axis(found, unit), overview.NOTE: note})
    text = ["", table(found, unit), "", *(_wrap(note) for note in explained(found, unit)), ""] if found else [""]
    text += [_wrap(sentence) for sentence in said]
    if failures:
        text += ["", f"{len(failures)} of {len(outcomes)} runs failed; the same command tries them again:"]
        text += [_wrap(f"- {outcome.cell.label}: {outcome.reason} [{outcome.run_id}]") for outcome in failures]
    text += ["", *(f"wrote {path}" for path in files)]
    plain = {
        "sweep_id": sweep.sweep_id,
        "unit": unit,
        "groups": [
            {"values": dict(g.values), "accuracies": [*g.accuracies], "accuracy_mean": g.mean, "accuracy_sd": g.sd,
             "statement": dict(g.statement) if g.statement else None}
            for g in found
        ],
        "runs": [{"run_id": o.run_id, "state": o.state, "values": dict(o.cell.values), "reason": o.reason}
                 for o in outcomes],
        "owners_total": {"public_benchmark": all_public, "worst": total.to_dicts(spent), "words": said},
    }  # fmt: skip
    return "\n".join(text), plain


def _wrap(text: str) -> str:
    return console.wrapped(text)
