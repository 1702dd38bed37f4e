"""What MLflow is told of a run: a function of what the run's folder holds, so that it can also be told later.

A run tells its tracker while it goes on. What a server that failed has missed is sent when the finished run is named
again (`fedveil simulate --resume`, `fedveil ui`): the same functions read the same folder, and the tracker asks the
store what it has. `tracking.json` in the folder says where a run is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import fedveil
from fedveil import checks, config, readback, runs, tracking
from fedveil.configuration.schema import Config
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import set_tensors
from fedveil.privacy.ledger import Ledger
from fedveil.privacy.statements import Statement
from fedveil.records import Tensors
from fedveil.runs import Run
from fedveil.storage import disk
from fedveil.tracking import Tracker, _full, light, stores
from fedveil.tracking.stores import Store

_PICTURES = ("rounds.png", "roc.png", "budget_shape.png", "faces.png")


def store_of(settings: Config) -> Store:
    """Return where a run with these settings is mirrored."""
    return stores.chosen(settings.tracking, Path(settings.runs.root))


def start(federation: Federation, run: Run, formal: bool, parent: str = "") -> Tracker:
    """Open the tracker that the settings name, and begin or continue the run there.

    Args:
        federation: its tracking settings may differ from those that the run began with; everything else is the run's.
        run: its config.json is written.
        formal: a release of it has a formal guarantee.
        parent: id of the sweep that it belongs to, if any; the folder remembers it.
    """
    settings = federation.settings
    tracker = tracking.open_tracker(settings.tracking, Path(settings.runs.root))
    if settings.tracking.name == "none":
        return tracker
    told = _told(run)
    if parent and parent != told.parent:
        told = _tell(run, dataclasses.replace(told, parent=parent))
    private = "see statements" if formal and settings.privacy.test_seed is None else "NOT PRIVATE"
    tracker.start(
        tracking.RunInfo(
            run_id=run.run_id,
            experiment=stores.EXPERIMENT,
            run_name=run.run_id,
            params=config.flat(readback.settings_of(run)),
            tags={
                "fedveil.protection": settings.protection.name,
                "fedveil.privacy": private,
                "fedveil.version": fedveil.__version__,
                "fedveil.config_hash": config.digest(settings),
            },
            parent=told.parent or None,
            started=int(run.config.stat().st_mtime * 1000),
            hide_times=settings.privacy.client is not None,
            rounds=federation.total_rounds,
            later=f"`fedveil simulate --resume {run.run_id}` or `fedveil ui` sends later what is missing",
        )
    )
    return tracker


def warm_start(tracker: Tracker, found: Mapping[str, Any] | None) -> None:
    """Tell what a warm start knew before the first round."""
    if found is not None:
        tracker.log_round(int(found["round"]), {"accuracy": found["accuracy"], "eer": found["eer"]})


def rounds(tracker: Tracker, history: Iterable[Mapping[str, Any]]) -> None:
    """Tell what every finished round found."""
    for entry in history:
        tracker.log_round(int(entry["round"]), round_metrics(entry))


def round_metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return what MLflow plots for a round; a statement without a finite epsilon is a tag, not a metric."""
    found: dict[str, float] = {"bytes_expected": entry["bytes_expected"]}
    if "seconds" in entry:
        found["seconds"] = entry["seconds"]
    if entry["accuracy"] is not None:
        found |= {"accuracy": entry["accuracy"], "eer": entry["eer"]}
        found |= {f"tar_at_far_{far}": value for far, value in entry["tar"].items() if isinstance(value, float)}
    for claim in entry["statements"]:
        if claim["epsilon"] is not None and "view" in claim:
            stated = {name: claim[name] for name in ("unit", "relation", "view", "epsilon", "delta")}
            name = Statement(**stated, mechanism="", guarantee="formal", meaningful=False).metric_name
            found[str(name)] = claim["epsilon"]
    return {name: value for name, value in found.items() if value is not None}


def final_metrics(result: Mapping[str, Any], settings: Config) -> dict[str, float]:
    """Return the numbers of the last evaluation."""
    final = result["final"]
    numbers = {f"final_{name}": final[name] for name in ("accuracy", "fold_sd", "draw_sd", "eer", "auc")}
    if settings.privacy.client is None:  # durations tell who took part
        numbers["wall_seconds"] = result.get("wall_seconds")
    return {name: value for name, value in numbers.items() if value is not None}


def final_tags(run: Run, result: Mapping[str, Any]) -> dict[str, str]:
    """Return what a finished run may claim, as text."""
    tags = {
        "fedveil.privacy": "private" if result["private"] else "NOT PRIVATE",
        "fedveil.model": result["model_sha256"],
        "fedveil.ledger_head": Ledger(run.ledger).head(),
    }
    for claim in result["statements"]:
        key, epsilon = f"fedveil.epsilon.{claim['unit']}", claim["epsilon"]
        if epsilon is None or "none" not in tags.get(key, ""):  # of several, one without a guarantee is what counts
            tags[key] = "none (epsilon is infinite)" if epsilon is None else f"{epsilon:.6g}"
    return tags


def publish(federation: Federation, run: Run, tracker: Tracker) -> None:
    """Tell everything of a finished run but its rounds, and close it there; whatever goes wrong, the run has ended."""
    if federation.settings.tracking.name != "none":
        _publish_all(federation, run, tracker)
    if federation.settings.privacy.client is not None:
        runs.hide_times(run)


def _publish_all(federation: Federation, run: Run, tracker: Tracker) -> None:
    try:
        _publish(federation, run, tracker)
    except (checks.UserError, OSError) as error:
        _warn(f"Warning: {run.run_id} is tracked in part", error)
        tracker.finish("FINISHED")
        return
    tracker.finish("FINISHED")
    if tracker.problem is None:
        told = _told(run)
        _tell(run, dataclasses.replace(told, complete=(*told.complete, store_of(federation.settings).key)))


def _publish(federation: Federation, run: Run, tracker: Tracker) -> None:
    settings = federation.settings
    result = readback.result_of(run)
    last = int(result["rounds"][-1]["round"]) if result["rounds"] else 0
    tracker.log_round(last, final_metrics(result, settings))
    tracker.log_tags(final_tags(run, result))
    pictures = [path for path in (run.folder / name for name in _PICTURES) if path.exists()]
    for path in (run.config, *pictures, run.ledger, run.result):
        tracker.log_artifact(path)
    if settings.tracking.log_model and tracker.problem is None:
        arrays, _ = readback.checkpoint_of(run)
        tensors = {name[7:]: value for name, value in arrays.items() if name.startswith("tensor/")}
        tracker.log_model(functools.partial(_model, federation, tensors))


def _model(federation: Federation, tensors: Tensors, folder: Path) -> tuple[Sequence[int], int]:
    """Write the model into a folder that is not there yet; return the shape it reads and an embedding's length."""
    backbone, inputs = federation.backbone(), federation.protection.layout(federation.size)
    set_tensors(backbone, tensors)
    if federation.settings.tracking.model == "full":
        _full.save(backbone, inputs, folder)
    else:
        light.save(federation, tensors, folder)
    with torch.no_grad():
        return inputs, int(backbone.eval()(torch.zeros(1, *inputs)).shape[1])


def catch_up(federation: Federation, run: Run) -> str:
    """Send what the tracker lacks of a finished run; return what was done, empty where nothing was missing.

    A run that is complete in some store is sent to another one only where the settings name that one.
    """
    settings, told = federation.settings, _told(run)
    store = store_of(settings)
    named = settings.tracking.uri is not None or settings.tracking.experiment is not None
    there = store.key in told.complete and not _lost(store)
    if settings.tracking.name == "none" or there or (told.complete and not named and not _lost(store)):
        return ""
    try:
        with contextlib.closing(runs.lock(run)):
            result = readback.result_of(run)
            tracker = start(federation, run, any(claim["epsilon"] is not None for claim in result["statements"]))
            warm_start(tracker, result.get("warm_start"))
            rounds(tracker, result["rounds"])
            publish(federation, run, tracker)
    except (checks.UserError, OSError) as error:  # tracking only watches: what is asked of the run goes on
        _warn(f"Warning: {run.run_id} is not sent to {store.shown}", error)
        return ""
    return "" if tracker.problem is not None else f"sent to {store.shown}: {run.run_id}"


def missing(root: Path, store: Store) -> Iterator[tuple[Federation, Run]]:
    """Yield the finished runs that belong to a store and are complete nowhere; a damaged run is left out, and said."""
    for run, _ in readback.finished(root):
        try:
            settings = readback.settings_of(run)
            here = dataclasses.replace(settings, runs=dataclasses.replace(settings.runs, root=str(root)))
            wanted = settings.tracking.name != "none" and store_of(here).key == store.key
            if wanted and (_lost(store) or not _told(run).complete):
                yield Federation(here), run
        except checks.UserError as error:
            _warn("left out", error)


def report(settings: Config, run_id: str, files: Sequence[Path], hide_times: bool, rounds: int, status: str) -> None:
    """Tell a report's files, in a folder of their own, of the run or sweep that it is about.

    Args:
        settings: of one of its runs, which say whether it is tracked, and where.
        run_id: the run's or the sweep's.
        files: what was written.
        hide_times: see `RunInfo`.
        rounds: of the run, or runs of the sweep, as it was told with.
        status: how it ended, FINISHED or FAILED.
    """
    tracker = tracking.open_tracker(settings.tracking, Path(settings.runs.root))
    tracker.start(tracking.RunInfo(run_id, stores.EXPERIMENT, run_id, hide_times=hide_times, rounds=rounds))
    for path in files:
        tracker.log_artifact(path, "report")
    tracker.finish(status)


def _lost(store: Store) -> bool:
    """Return whether a database file is not there any more, whatever was sent to it."""
    path = store.uri.removeprefix("sqlite:///")
    return store.artifacts is not None and not Path(path).exists()


@dataclasses.dataclass(frozen=True)
class _Told:
    """What tracking.json holds: the sweep that a run belongs to, and the stores that have all of it."""

    parent: str = ""
    complete: tuple[str, ...] = ()


def _told(run: Run) -> _Told:
    """Return what was told; where the file is damaged, nothing: the store is asked again."""
    path = run.folder / "tracking.json"
    if not path.exists():
        return _Told()
    try:
        shape = {"parent": str, "complete": [str]}
        found = runs.read_json(path, "note of what was tracked", shape, "Remove it: the store is asked anew.")
    except checks.UserError as error:
        _warn("left out", error)
        return _tell(run, _Told())  # said once
    return _Told(found["parent"], tuple(found["complete"]))


def _tell(run: Run, told: _Told) -> _Told:
    """Remember what was told; where there is no room for it, the store is asked again some day."""
    try:
        tree = {"parent": told.parent, "complete": [*dict.fromkeys(told.complete)]}
        runs.write_json(run.folder / "tracking.json", tree)
    except OSError as error:
        _warn("Warning", error)
    return told


def _warn(what: str, error: checks.UserError | OSError) -> None:
    said = disk.said(error) if isinstance(error, OSError) else error
    print(f"{what}: {said}", file=sys.stderr)
