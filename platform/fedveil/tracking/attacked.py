"""What MLflow is told of attacks on a run: each is its child, and the run carries what the strongest reached.

A function of the files in `runs/RUN_ID/attacks/`, like everything that is told: what a tracker missed is sent later,
and what was told is not told twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fedveil
from fedveil import checks, tracking
from fedveil.attacks import _kept, base
from fedveil.configuration.schema import Config
from fedveil.runs import Run
from fedveil.tracking import RunInfo, Tracker, described, named, overview, stores, told, view
from fedveil.tracking.told import Told


@dataclasses.dataclass(frozen=True)
class Found:
    """One attack's finding on disk.

    Attributes:
        name: its file's, without the ending: the attack and a hash of its settings.
        version: the name and a hash of the file: an attack that was run again is told again.
        finding: `Finding.to_dict` and the run's id.
        files: the finding, and its picture where there is one.
    """

    name: str
    version: str
    finding: Mapping[str, Any]
    files: tuple[Path, ...]


def findings(run: Run) -> Iterator[Found]:
    """Yield the findings of a run; a damaged one is left out, and said."""
    for path in sorted((run.folder / "attacks").glob("*.json")):
        try:
            finding, digest = _kept.read(path), hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        except (checks.UserError, OSError) as error:
            told.warn("left out", error)
            continue
        files = tuple(file for file in (path, path.with_suffix(".png")) if file.is_file())
        yield Found(path.stem, f"{path.stem}@{digest}", finding, files)


def missing(run: Run, known: Told, store: str) -> bool:
    """Return whether a store lacks an attack on the run."""
    return bool({one.version for one in findings(run)} - {*known.attacks_at(store)})


def send(settings: Config, run: Run, result: Mapping[str, Any], known: Told, store: str) -> Told:
    """Tell a store of the attacks that it lacks, and the attacked run of the strongest; return what was told then.

    Args:
        settings: the run's, tracked where the attacks are told.
        run: the store has it.
        result: result.json.
        known: what was told so far.
        store: `Store.key`.
    """
    found = [*findings(run)]
    if not {one.version for one in found} - {*known.attacks_at(store)}:
        return known
    for one in found:
        if one.version not in known.attacks_at(store):
            tracker = _tell(settings, _child(settings, run, one), metrics(one.finding), one.files)
            if tracker.problem is not None:
                return known
            known = told.write(run, known.with_attacks(store, (*known.attacks_at(store), one.version)))
    every = [one.finding for one in found]
    tracker = _tell(settings, _parent(settings, run, described.run(settings, result, every)), strongest(every))
    if tracker.problem is not None:  # as if nothing had been told, so that it is tried again
        return told.write(run, known.with_attacks(store, ()))
    return told.write(run, known.with_attacks(store, tuple(one.version for one in found)))


def metrics(finding: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an attack: every measure, with the ends of its interval.

    >>> metrics({"measures": [{"name": "linked", "value": 0.2, "low": 0.1, "high": None}]})
    {'linked': 0.2, 'linked_low': 0.1}
    """
    named_ends = itertools.product(finding["measures"], (("value", ""), ("low", "_low"), ("high", "_high")))
    numbers = {f"{one['name']}{ending}": one.get(end) for one, (end, ending) in named_ends if one["value"] is not None}
    return {name: float(value) for name, value in numbers.items() if value is not None}


def strongest(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what the strongest of these attacks reached, by measure: a defence counts only against that one."""
    largest = {name: base.strongest(found, name) for name in base.LEAKS}
    return {name: float(one["value"]) for name, one in largest.items() if one is not None}


def _tell(settings: Config, info: RunInfo, numbers: Mapping[str, float], files: Sequence[Path] = ()) -> Tracker:
    tracker = tracking.open_tracker(settings.tracking, Path(settings.runs.root))
    tracker.start(info)
    tracker.log_round(0, numbers)
    for path in files:
        tracker.log_artifact(path)
    tracker.finish()
    return tracker


def _child(settings: Config, run: Run, one: Found) -> RunInfo:
    finding = one.finding
    judge = finding["judge"].get("file", finding["judge"].get("kind", "none"))
    return dataclasses.replace(
        _info(settings, run, f"{run.run_id}/attacks/{one.name}"),
        run_name=f"attack: {finding['attack']} on {named.run(settings)}",
        params={f"attack.{key}": value for key, value in finding["settings"].items()},
        tags={
            view.KIND: "attack",
            "fedveil.attack": finding["attack"],
            "fedveil.level": finding["level"],
            "fedveil.judge": str(judge),
            "fedveil.protection": finding["protection"],
            "fedveil.version": fedveil.__version__,
            overview.NOTE: described.attack(finding),
        },
        parent=run.run_id,
        aside=False,
    )


def _parent(settings: Config, run: Run, note: str) -> RunInfo:
    return dataclasses.replace(_info(settings, run, run.run_id), tags={overview.NOTE: note})


def _info(settings: Config, run: Run, run_id: str) -> RunInfo:
    return RunInfo(
        run_id=run_id,
        experiment=stores.EXPERIMENT,
        run_name=named.run(settings),
        hide_times=settings.privacy.client is not None,
        later=f"`fedveil attack {run.run_id}` or `fedveil ui` sends later what is missing",
        aside=True,
    )
