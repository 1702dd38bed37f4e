"""What watches the round loop: evaluation, checkpoint, tracking. None of them can change a round."""

from __future__ import annotations

import collections
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fedveil
from fedveil import config, records, runs, tracking
from fedveil.configuration.schema import Config
from fedveil.evaluation import protocol
from fedveil.federation.tensors import set_tensors
from fedveil.pictures import faces
from fedveil.pictures import run as pictures
from fedveil.privacy.ledger import Ledger
from fedveil.records import RoundReport, Tensors
from fedveil.runs import Run
from fedveil_strategies import rounds
from fedveil_strategies.session import Session


class Watch:
    """The observers of one session; `history` holds one plain record per finished round."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.history: list[dict[str, Any]] = [dict(entry) for entry in session.history]

    def warm_start(self) -> None:
        """Show what a warm start knows before round 1: what training is to be measured against."""
        session = self.session
        begins = session.start.round == session.stage.first - 1
        if session.settings.train.warm_start is None or session.stage.phase is not None or not begins:
            return
        set_tensors(session.backbone, session.start.tensors)
        found = evaluated(session)
        session.console.say(f"warm start: accuracy {100 * found.accuracy:.1f} %, EER {100 * found.eer:.1f} %")
        session.tracker.log_round(session.start.round, {"accuracy": found.accuracy, "eer": found.eer})

    def evaluate(self, report: RoundReport) -> None:
        """Measure the new model on public pairs with one draw, every n-th round, and remember the round."""
        settings, claimed = self.session.settings, self.session.claims()
        entry: dict[str, Any] = {
            "round": report.round,
            "accuracy": None,
            "statements": [
                {"unit": s.unit, "relation": s.relation, "epsilon": s.epsilon, "delta": s.delta}
                for s in claimed.statements
            ],
            "bytes_expected": report.bytes_expected,
        }
        if self.session.level is None:  # durations and failures tell who took part
            entry["seconds"] = report.seconds
            if report.failures:
                entry["missing"] = dict(collections.Counter(failure.kind for failure in report.failures))
        if self.session.stage.phase is not None:
            entry["phase"] = self.session.stage.name
        elif report.round % settings.evaluation.every == 0 or report.round == report.rounds:
            set_tensors(self.session.backbone, report.tensors)
            found = evaluated(self.session)
            entry |= {"accuracy": found.accuracy, "eer": found.eer, "tar": found.tar}
        self.history.append(records.plain(entry))

    def checkpoint(self, report: RoundReport) -> None:
        """Write everything that the next round starts from, atomically."""
        self.save(rounds.State(report.round, report.tensors, report.optimiser, report.memory))

    def save(self, state: rounds.State) -> None:
        """Write a checkpoint of a state of the session's stage."""
        seconds = self.session.seconds_before + time.perf_counter() - self.session.begun
        data = checkpoint_bytes(self.session, state, self.history, seconds)
        runs.write_atomic(self.session.run.checkpoint, data, private=True)

    def again(self) -> None:
        """Track the last finished round of a resumed run: the run may have ended between checkpoint and tracking."""
        if self.history:
            entry = self.history[-1]
            self.session.tracker.log_round(int(entry["round"]), round_metrics(entry, self.session))

    def track(self, report: RoundReport) -> None:
        """Show the round on the terminal and in MLflow; failures go to the operator's log alone."""
        entry = self.history[-1]
        self.session.console.round(entry, report)
        self.session.tracker.log_round(report.round, round_metrics(entry, self.session))
        failed = [f"round {report.round} client {one.client_id}: {one.reason}" for one in report.failures]
        to_operator(self.session.run, *failed)


def to_operator(run: Run, *lines: str) -> None:
    """Write lines to the operator's log, which nobody else can read."""
    if not lines:
        return
    path = run.folder / "operator.log"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
        log.writelines(f"{line}\n" for line in lines)


def evaluated(session: Session, draws: int = 1, repeats: int = 0) -> protocol.Result:
    """Evaluate the session's backbone on its public pairs, with `repeats` bootstrap samples for an interval."""
    federation, wanted = session.federation, session.settings.evaluation
    return protocol.evaluate(
        session.backbone, federation.protection, session.state, federation.split.evaluation, draws=draws,
        seed=session.settings.seed, gallery=wanted.gallery, fars=wanted.far, repeats=repeats,
    )  # fmt: skip


def checkpoint_bytes(
    session: Session, state: rounds.State, history: Sequence[Mapping[str, Any]], seconds: float
) -> bytes:
    """Return the checkpoint after a round: tensors, optimiser, the protection's state, history."""
    arrays = {
        **{f"tensor/{name}": value for name, value in state.tensors.items()},
        **{f"optimiser/{name}": value for name, value in state.optimiser.items()},
        **{f"state/{name}": np.asarray(value) for name, value in session.state.items()},
    }
    digest = config.digest(session.settings)
    meta = {
        "round": state.round,
        "stage": session.stage.index,
        "history": [*history],
        "seconds": seconds,
        "config_hash": digest,
        "memory": dict(state.memory),
        "ledger_head": Ledger(session.run.ledger).head(),
    }
    return runs.pack(arrays, meta)


def round_metrics(entry: Mapping[str, Any], session: Session) -> dict[str, float]:
    """Return what MLflow plots for a round; a statement without a finite epsilon is a tag, not a metric."""
    found = {"bytes_expected": entry["bytes_expected"]}
    if "seconds" in entry:
        found["seconds"] = entry["seconds"]
    if entry["accuracy"] is not None:
        found |= {"accuracy": entry["accuracy"], "eer": entry["eer"]}
        found |= {f"tar_at_far_{far}": value for far, value in entry["tar"].items() if isinstance(value, float)}
    for statement in session.claims().statements:
        if statement.metric_name is not None and statement.epsilon is not None:
            found[statement.metric_name] = statement.epsilon
    return found


def start_tracker(settings: Config, run: Run, parent: str, formal: bool) -> tracking.Tracker:
    """Open the configured tracker, below the sweep `parent` if any; what goes wrong with it later is one warning."""
    tracker = tracking.open_tracker(settings.tracking, Path(settings.runs.root))
    private = "see statements" if formal and settings.privacy.test_seed is None else "NOT PRIVATE"
    info = tracking.RunInfo(
        run_id=run.run_id,
        experiment=settings.tracking.experiment or "fedveil",
        run_name=run.run_id,
        params=config.flat(settings),
        tags={
            "fedveil.protection": settings.protection.name,
            "fedveil.privacy": private,
            "fedveil.version": fedveil.__version__,
            "fedveil.config_hash": config.digest(settings),
        },
        parent=parent or None,
        hide_times=settings.privacy.client is not None,
    )
    tracker.start(info)
    return tracker


def final_numbers(found: protocol.Result) -> dict[str, Any]:
    """Return the `final` block of result.json."""
    return {
        "accuracy": found.accuracy,
        "fold_sd": found.fold_sd,
        "draw_sd": found.draw_sd,
        "interval": found.interval,
        "eer": found.eer,
        "auc": found.auc,
        "tar": found.tar,
    }


def publish(
    session: Session, result: Mapping[str, Any], found: protocol.Result, last: int, tensors: Tensors
) -> None:
    """Draw the pictures, then mirror them, the ledger, the configuration and the model to the tracker."""
    run, tracker, settings = session.run, session.tracker, session.settings
    set_tensors(session.backbone, tensors)
    made = [run.config, *draw(session, result["rounds"], found)]
    final = result["final"]
    numbers = {f"final_{name}": final[name] for name in ("accuracy", "fold_sd", "draw_sd", "eer", "auc")}
    if session.level is None:  # durations tell who took part
        numbers["wall_seconds"] = result["wall_seconds"]
    tracker.log_round(last, {k: v for k, v in numbers.items() if v is not None})
    private = "private" if result["private"] else "NOT PRIVATE"
    tags = {"fedveil.privacy": private, "fedveil.model": result["model_sha256"]}
    tags["fedveil.ledger_head"] = Ledger(session.run.ledger).head()
    for statement in result["statements"]:
        key, epsilon = f"fedveil.epsilon.{statement['unit']}", statement["epsilon"]
        if epsilon is None or "none" not in tags.get(key, ""):  # of several, one without a guarantee is what counts
            tags[key] = "none (epsilon is infinite)" if epsilon is None else f"{epsilon:.6g}"
    tracker.log_tags(tags)
    for path in [*made, run.ledger]:
        tracker.log_artifact(path)
    if settings.tracking.log_model:
        channels, height, width = session.federation.protection.layout(session.federation.size)
        tracker.log_model(session.backbone, np.zeros((1, channels, height, width), np.float32))


def draw(session: Session, history: Sequence[Mapping[str, Any]], found: protocol.Result) -> list[Path]:
    """Draw accuracy over rounds, ROC, sample faces (procedural or public ones only) and the budget's shape."""
    folder, settings = session.run.folder, session.settings
    history = [entry for entry in history if entry["accuracy"] is not None]
    made = []
    if history:  # a budget may be spent before the first evaluated round
        made.append(
            pictures.rounds_curve(
                folder / "rounds.png",
                [entry["round"] for entry in history],
                [entry["accuracy"] for entry in history],
                [_client_epsilon(entry) for entry in history] if session.level is not None else None,
            )
        )
    made += [
        pictures.roc_curve(
            folder / "roc.png", [far for far, _ in found.roc], [tar for _, tar in found.roc], settings.protection.name
        ),
    ]
    shape = session.federation.protection.shape_picture(session.state)
    if shape is not None:
        made.append(pictures.budget_shape(folder / "budget_shape.png", shape))
    if session.federation.split.public.synthetic:
        rows = faces.sample(session.federation.protection, session.state, session.federation.split.public)
        made.append(faces.face_grid(folder / "faces.png", rows))
    return made


def _client_epsilon(entry: Mapping[str, Any]) -> float | None:
    """Return the client-level epsilon spent after a round."""
    return next((s["epsilon"] for s in entry["statements"] if s["unit"] == "client"), None)


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process and its largest ended child, MiB."""
    scale = 1024.0**2 if sys.platform == "darwin" else 1024.0
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(who).ru_maxrss for who in both) / scale
