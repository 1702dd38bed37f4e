"""What MLflow is told of a run: a function of what the run's folder holds, so that it can also be told later.

A run tells its tracker while it goes on. What a server that failed has missed is sent when the finished run is named
again (`fedveil simulate --resume`, `fedveil ui`): the same functions read the same folder, and the tracker asks the
store what it has. `tracking.json` in the folder says where a run is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import fedveil
from fedveil import checks, config, readback, runs, tracking
from fedveil.configuration.schema import Config
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import set_tensors
from fedveil.privacy.ledger import Ledger
from fedveil.records import Tensors
from fedveil.runs import Run
from fedveil.tracking import Tracker, _full, attacked, described, light, measured, named, overview, stores, told, view
from fedveil.tracking.stores import Store
from fedveil.tracking.told import Told

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
    known = told.read(run)
    if parent and parent != known.parent:
        known = told.write(run, dataclasses.replace(known, parent=parent))
    swept = _swept(run, known.parent)
    private = "see statements" if formal and settings.privacy.test_seed is None else "NOT PRIVATE"
    tracker.start(
        tracking.RunInfo(
            run_id=run.run_id,
            experiment=stores.EXPERIMENT,
            run_name=named.run(settings, swept),
            params=config.flat(readback.settings_of(run)),
            tags={
                view.KIND: "run",
                view.GROUP: (method := named.method(settings, swept)),
                view.ORDER: named.order(method),
                "fedveil.protection": settings.protection.name,
                "fedveil.privacy": private,
                "fedveil.version": fedveil.__version__,
                "fedveil.config_hash": config.digest(settings),
                overview.NOTE: described.run(settings, None),
            },
            parent=known.parent or None,
            started=int(run.config.stat().st_mtime * 1000),
            hide_times=settings.privacy.client is not None,
            rounds=federation.total_rounds,
            later=f"`fedveil simulate --resume {run.run_id}` or `fedveil ui` sends later what is missing",
            ended=int(run.result.stat().st_mtime * 1000) if run.result.exists() else None,
        )
    )
    return tracker


def warm_start(tracker: Tracker, found: Mapping[str, Any] | None) -> None:
    """Tell what a warm start knew before the first round."""
    if found is not None:
        tracker.log_round(int(found["round"]), {"accuracy": found["accuracy"], "eer": found["eer"]})


def rounds(tracker: Tracker, history: Sequence[Mapping[str, Any]], last_alone: bool = False) -> None:
    """Tell what all finished rounds found, or the last of them alone."""
    for number in range(len(history) - 1 if last_alone else 0, len(history)):
        steps = measured.of_round(history[number], history[number - 1] if number else None)
        for step, found in steps.items():
            tracker.log_round(step, found)


def _final_tags(settings: Config, run: Run, result: Mapping[str, Any]) -> dict[str, str]:
    """Return what a finished run may claim, and its description."""
    return {
        "fedveil.privacy": "private" if result["private"] else "NOT PRIVATE",
        "fedveil.model": result["model_sha256"],
        "fedveil.ledger_head": Ledger(run.ledger).head(),
        **measured.tags(result),
        overview.NOTE: described.run(settings, result, [one.finding for one in attacked.findings(run)]),
    }


def publish(federation: Federation, run: Run, tracker: Tracker) -> None:
    """Tell everything of a finished run but its rounds, and close it there; whatever goes wrong, the run has ended."""
    if federation.settings.tracking.name != "none":
        _publish_all(federation, run, tracker)
    _hide_times(federation.settings, run)


def _hide_times(settings: Config, run: Run) -> None:
    if settings.privacy.client is not None:
        runs.hide_times(run)


def _publish_all(federation: Federation, run: Run, tracker: Tracker) -> None:
    try:
        _publish(federation, run, tracker)
    except (checks.UserError, OSError) as error:
        told.warn(f"Warning: {run.run_id} is tracked in part", error)
        tracker.finish("FINISHED")
        return
    tracker.finish("FINISHED")
    if tracker.problem is None:
        known = told.read(run)
        told.write(run, dataclasses.replace(known, complete=(*known.complete, store_of(federation.settings).key)))


def _publish(federation: Federation, run: Run, tracker: Tracker) -> None:
    settings = federation.settings
    result = readback.result_of(run)
    for step, found in measured.final(result, timed=settings.privacy.client is None).items():
        tracker.log_round(step, found)
    tracker.log_tags(_final_tags(settings, run, result))
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
    """Send what the tracker lacks of a finished run and of attacks on it; return what was done, empty for nothing.

    A run that is complete in some store is sent to another one only where the settings name that one. A command that
    attacked a run calls this as well.
    """
    settings, known = federation.settings, told.read(run)
    store = store_of(settings)
    if settings.tracking.name == "none" or not run.result.exists():
        return ""
    whole, lost = _wanted(settings, known), _lost(store)
    if not whole and not (store.key in known.complete and attacked.missing(run, known, store.key)):
        return ""
    try:
        with contextlib.closing(runs.lock(run)):
            result = readback.result_of(run)
            if lost:
                told.write(run, known.with_attacks(store.key, ()))
            sent = (not whole or _send(federation, run, result)) and _send_attacks(federation, run, result)
    except (checks.UserError, OSError) as error:  # tracking only watches: what is asked of the run goes on
        told.warn(f"Warning: {run.run_id} is not sent to {store.shown}", error)
        return ""
    return f"sent to {store.shown}: {run.run_id}" if sent else ""


def _wanted(settings: Config, known: Told) -> bool:
    """Return whether a finished run is to be sent to the store that the settings name."""
    store = store_of(settings)
    named_there = settings.tracking.uri is not None or settings.tracking.experiment is not None
    if store.key in known.complete:
        return _lost(store)
    return not known.complete or named_there or _lost(store)


def _send(federation: Federation, run: Run, result: Mapping[str, Any]) -> bool:
    tracker = start(federation, run, any(claim["epsilon"] is not None for claim in result["statements"]))
    warm_start(tracker, result.get("warm_start"))
    rounds(tracker, result["rounds"])
    publish(federation, run, tracker)
    return tracker.problem is None


def _send_attacks(federation: Federation, run: Run, result: Mapping[str, Any]) -> bool:
    settings = federation.settings
    store = store_of(settings).key
    attacked.send(settings, run, result, told.read(run), store)
    _hide_times(settings, run)
    return not attacked.missing(run, told.read(run), store)


def missing(root: Path, store: Store) -> Iterator[tuple[Federation, Run]]:
    """Yield the finished runs of which a store lacks something; a damaged run is left out, and said.

    A run belongs to the store that its settings name; one that is complete in another is lacking nowhere.
    """
    for run, _ in readback.finished(root):
        try:
            settings = readback.settings_of(run)
            here = dataclasses.replace(settings, runs=dataclasses.replace(settings.runs, root=str(root)))
            if settings.tracking.name == "none" or store_of(here).key != store.key:
                continue
            known = told.read(run)
            lacks = store.key in known.complete and attacked.missing(run, known, store.key)
            if _lost(store) or not known.complete or lacks:
                yield Federation(here), run
        except checks.UserError as error:
            told.warn("left out", error)


def _swept(run: Run, parent: str) -> tuple[str, ...]:
    """Return the keys that the sweep which a run belongs to varies; none where its file does not say."""
    path = run.root / parent / "sweep.json"
    if not parent or not path.exists():
        return ()
    try:
        return tuple(runs.read_json(path, "sweep", {"grid": {}}, "")["grid"])
    except checks.UserError:
        return ()


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
