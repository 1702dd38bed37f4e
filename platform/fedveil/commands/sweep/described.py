"""What MLflow is told of a sweep as a whole: its name, and its description in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import fedveil
from fedveil import tracking
from fedveil.commands.sweep import grid
from fedveil.commands.sweep.sweep import Sweep
from fedveil.tracking import named, overview, stores, view

if TYPE_CHECKING:
    from fedveil.commands._groups import Group


def begun(sweep: Sweep) -> tracking.RunInfo:
    """Return what the parent run in the tracker is told; its children are the runs."""
    cells = sweep.grid.cells
    own = None if sweep.fixed else sweep.sweep_id.removeprefix("sweep-")
    return tracking.RunInfo(
        run_id=sweep.sweep_id,
        experiment=stores.EXPERIMENT,
        run_name=named.sweep(sweep.words, sweep.grid.axes, own),
        params={key: ",".join(values) for key, values in sweep.grid.axes.items()},
        tags={
            view.KIND: "sweep",
            view.GROUP: "sweep",
            view.ORDER: "sweep",
            "fedveil.sweep": f"{len(cells)} runs",
            "fedveil.version": fedveil.__version__,
            overview.NOTE: what(sweep),
        },
        hide_times=any(cell.settings.privacy.client is not None for cell in cells),  # what theirs tells is theirs
        rounds=len(cells),
        later="the same command sends later what is missing",
    )


def what(sweep: Sweep) -> str:
    """Return what was swept, one paragraph of Markdown."""
    axes = " x ".join(f"`{key}` ({', '.join(values)})" for key, values in sweep.grid.axes.items())
    said = f"A sweep over {axes}: {len(sweep.grid.cells)} runs, which are its children."
    if sweep.attacks:
        said += f" Each was attacked: {', '.join(one.name for one in sweep.attacks)}."
    return " ".join([said, *sweep.grid.notes, f"`fedveil sweep {' '.join(sweep.words)}` goes on with it."])


def found(
    sweep: Sweep, frontiers: Mapping[str, Sequence[Group]], notes: Iterable[str], said: Iterable[str]
) -> str:
    """Return the description of a sweep that has ended, Markdown.

    Args:
        sweep: of these groups.
        frontiers: unit whose epsilon stands beside the accuracy -> runs that differ in their seed alone.
        notes: what the numbers are.
        said: further sentences: what it cost the owners, what failed.
    """
    rows = []
    for unit, group in ((unit, group) for unit, groups in frontiers.items() for group in groups):
        spread = "" if group.sd is None else f" ± {overview.percent(group.sd)}"
        budget = "no guarantee" if group.epsilon is None else f"epsilon {group.epsilon:.6g}"
        name = grid.label(group.values) if group.values else "all"
        rows.append(
            f"- **{name}**: accuracy {overview.percent(group.mean)}{spread} over {len(group.accuracies)} seeds; "
            f"{unit}: {budget}"
        )
    return "\n\n".join(part for part in (what(sweep), "\n".join(rows), _listed(notes), _listed(said)) if part)


def _listed(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
