"""What a sweep found: accuracy against epsilon per setting, as table, CSV, picture and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedveil import console, runs, tracking
from fedveil.attacks.base import LEAKS
from fedveil.commands import _groups
from fedveil.commands._groups import UNITS, Group, statement_of
from fedveil.commands.sweep import attacks, blocks, described, grid, leakage, total
from fedveil.commands.sweep.grid import Cell
from fedveil.commands.sweep.sweep import Outcome, Sweep
from fedveil.pictures import frontier as pictures_frontier
from fedveil.privacy.statements import MEANINGFUL
from fedveil.tracking import overview


def units_of(cells: Sequence[Cell]) -> dict[str, tuple[str, ...]]:
    """Return whose epsilons are the axes, by block: units whose training budget is swept, else asked, else an image's.

    >>> units_of(grid.expand(["privacy.client.epsilon=1,inf", "protection=none,dctdp", "privacy.client.clip=1"]).cells)
    {'': ('client',)}
    """
    swept: dict[str, set[str]] = {}
    asked: dict[str, set[str]] = {}
    for cell in cells:
        block = cell.values.get(blocks.KEY, "")
        swept.setdefault(block, set()).update(key.split(".")[1] for key in cell.values if key.startswith("privacy."))
        privacy = cell.settings.privacy
        asked.setdefault(block, set()).update(unit for unit in UNITS if getattr(privacy, unit) is not None)
    found = {}
    for block, units in swept.items():
        mine = units & {*UNITS} or asked[block] or {"image"}
        found[block] = tuple(unit for unit in UNITS if unit in mine)
    return found


def of_unit(outcomes: Sequence[Outcome], unit: str) -> list[Outcome]:
    """Return the outcomes of the blocks that have this unit's epsilon for an axis."""
    units = units_of([outcome.cell for outcome in outcomes])
    return [outcome for outcome in outcomes if unit in units[outcome.cell.values.get(blocks.KEY, "")]]


def frontiers(outcomes: Sequence[Outcome]) -> dict[str, list[Group]]:
    """Return the groups of every unit that is an axis; a unit of which nothing has finished is left out."""
    axes = {unit for units in units_of([outcome.cell for outcome in outcomes]).values() for unit in units}
    found = {unit: groups(of_unit(outcomes, unit), unit) for unit in UNITS if unit in axes}
    return {unit: each for unit, each in found.items() if each}


def groups(outcomes: Sequence[Outcome], unit: str) -> list[Group]:
    """Return the finished runs grouped over seeds, in the grid's order."""
    done = [(outcome.cell.values, outcome.result) for outcome in outcomes if outcome.result is not None]
    found = _groups.over_seeds(done, lambda one: one[0])
    return [_groups.group(same[0][0], [result for _, result in same], unit) for same in found]


def lines(found: Sequence[Group], unit: str) -> dict[str, list[pictures_frontier.Point]]:
    """Return the picture's series: one per block, protection and other swept value that is no budget of the axis."""
    training = f"privacy.{unit}."
    swept = {g.values.get(blocks.KEY, "") for g in found if any(key.startswith(training) for key in g.values)}
    made: dict[str, list[pictures_frontier.Point]] = {}
    for group in found:  # a budget is a release's, or private training's
        release = unit == "image" and group.values.get(blocks.KEY, "") not in swept
        budget = "protection." if release else training
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
        name = grid.fitted(group.values, 31) if group.values else "all"
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
    """Write runs.csv, and frontier.csv and a picture per unit once a run has finished; return the files.

    The picture is frontier.png; of several units there are frontier-client.png and so on.
    """
    found = frontiers(outcomes)
    made = [_csv(sweep.folder / "runs.csv", [_run_row(sweep, outcome) for outcome in outcomes])]
    if found:
        leaks = {tuple(leak.values.items()): leak for leak in leakage.over_seeds(outcomes)}
        rows = [_group_row(sweep, group, unit, leaks) for unit, each in found.items() for group in each]
        made.append(_csv(sweep.folder / "frontier.csv", rows))
    for unit, each in found.items():
        path = sweep.folder / ("frontier.png" if len(found) == 1 else f"frontier-{unit}.png")
        made.append(pictures_frontier.frontier(path, lines(each, unit), axis(each, unit), MEANINGFUL))
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
    return row | leakage.of(outcome.findings.values()) | {"seconds": seconds, "reason": outcome.reason}


def _group_row(
    sweep: Sweep, group: Group, unit: str, leaks: Mapping[tuple[tuple[str, str], ...], leakage.Leak]
) -> dict[str, Any]:
    statement = group.statement or {}
    row: dict[str, Any] = {key: group.values.get(key, "") for key in sweep.grid.axes if key != "seed"}
    row |= {"unit": unit, "epsilon": _number(group.statement), "delta": statement.get("delta")}
    row |= {"relation": statement.get("relation"), "meaningful": statement.get("meaningful", False)}
    row |= {"seeds": len(group.accuracies), "accuracy_mean": group.mean, "accuracy_sd": group.sd}
    leak = leaks.get(tuple(group.values.items()))
    return row | {name: leak.mean[name] if leak else None for name in LEAKS}


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
    found = frontiers(outcomes)
    spent, all_public = total.totals(outcomes)
    said = total.sentences(spent, all_public, sweep.fixed)
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    failed = [f"{outcome.cell.label} failed: {outcome.reason}" for outcome in failures]
    files = write(sweep, outcomes)
    for path in (*files, sweep.folder / "sweep.json"):
        tracker.log_artifact(path)
    done = sum(outcome.state == "finished" for outcome in outcomes)
    tracker.log_round(0, {"runs_finished": float(done), "runs_failed": float(len(failures))})
    notes = {unit: explained(each, unit) for unit, each in found.items()}
    every = [note for each in notes.values() for note in each]
    leaked = leakage.explained(outcomes)
    tracker.log_tags({
        "fedveil.owners_total": "; ".join(said),
        "fedveil.axis": "; ".join(axis(each, unit) for unit, each in found.items()),
        overview.NOTE: described.found(sweep, found, every, [*said, *failed]),
    })  # fmt: skip
    text = [""]
    for unit, each in found.items():
        text += [table(each, unit), "", *(_wrap(note) for note in notes[unit]), ""]
    if leaked:
        text += [leakage.table(outcomes), "", *(_wrap(note) for note in leaked), ""]
    text += [_wrap(sentence) for sentence in said]
    if failures:
        text += ["", f"{len(failures)} of {len(outcomes)} runs failed; the same command tries them again:"]
        text += [_wrap(f"- {outcome.cell.label}: {outcome.reason} [{outcome.run_id}]") for outcome in failures]
    text += ["", *(f"wrote {path}" for path in files)]
    text += ["", f"`fedveil report {sweep.sweep_id}` makes a page of it, `fedveil ui` shows the runs in MLflow"]
    plain = {
        "sweep_id": sweep.sweep_id,
        "units": [*found],
        "groups": [
            {"unit": unit, "values": dict(g.values), "accuracies": [*g.accuracies], "accuracy_mean": g.mean,
             "accuracy_sd": g.sd, "statement": dict(g.statement) if g.statement else None}
            for unit, each in found.items() for g in each
        ],
        "attacks": attacks.listed(sweep.attacks),
        "leakage": [{"values": dict(leak.values), "runs": leak.runs, **leak.mean}
                    for leak in leakage.over_seeds(outcomes)],
        "runs": [{"run_id": o.run_id, "state": o.state, "values": dict(o.cell.values), "reason": o.reason}
                 for o in outcomes],
        "owners_total": {"public_benchmark": all_public, "worst": total.to_dicts(spent), "words": said},
    }  # fmt: skip
    return "\n".join(text), plain


def _wrap(text: str) -> str:
    return console.wrapped(text)
