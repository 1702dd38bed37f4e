"""Run attacks on one finished run, one after another; what was found before is read."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedveil import checks, config, readback, runs
from fedveil.attacks import _kept
from fedveil.attacks._chosen import Chosen
from fedveil.attacks._target import Target
from fedveil.attacks.base import Progress, silent
from fedveil.configuration.schema import Config
from fedveil.federation.federation import Federation
from fedveil.federation.finished import model_of
from fedveil.runs import Run
from fedveil.tracking import mirror


def attack(
    settings: Config, run_id: str, attacks: Sequence[Chosen], progress: Progress = silent, again: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the finding of each attack as it is there: from its file, unless `again`, or found now and written.

    Args:
        settings: where runs, tracking and device are; the attacked run's own settings are its own.
        run_id: a finished run.
        attacks: what to run, in order.
        progress: is shown the steps of what is run.
        again: attack anew what was attacked.

    Raises:
        fedveil.checks.UserError: the run is unfinished or lacks what an attack needs, or an attack cannot be run.
    """
    run = runs.open_run(Path(settings.runs.root), run_id)
    if readback.at_owners(run):  # a coordinator's own people did not train: an attack that misses them shows nothing
        raise checks.UserError(
            f"Run {run_id} trained at owners' nodes, and nobody who trained is on this machine: an attack would be on "
            "people whom the model never saw. `fedveil simulate` its words on people of your own, and attack that run; "
            f"`fedveil audit {run_id}` needs nobody's faces."
        )
    target: Target | None = None
    for chosen in attacks:
        path = _kept.path_of(run, chosen.name, chosen.attack)
        if path.is_file() and not again:
            with contextlib.suppress(checks.UserError):  # a damaged one is found anew
                yield _kept.read(path)
                continue
        if target is None:
            target = Target.of(model_of(settings, run_id), run)
        finding = chosen.attack.run(target, progress)
        found = _kept.write(run, chosen.name, chosen.attack, finding)
        _track(settings, run)
        if target.federation.settings.privacy.client is not None:  # when a run ended tells who took part
            runs.hide_times(run)
        yield found


def _track(settings: Config, run: Run) -> None:
    """Tell the tracker of what is new: the one that this command names, else the run's own."""
    kept = readback.settings_of(run)
    named = settings.tracking if settings.tracking != config.load().tracking else kept.tracking
    mirror.catch_up(Federation(dataclasses.replace(kept, runs=settings.runs, tracking=named)), run)
