"""What watches the round loop: evaluation, checkpoint, tracking. None of them can change a round."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedveil import config, records, runs
from fedveil.evaluation import protocol
from fedveil.federation import recipe
from fedveil.federation.tensors import set_tensors
from fedveil.pictures import faces
from fedveil.pictures import run as pictures
from fedveil.privacy.ledger import Ledger
from fedveil.records import Failure, RoundReport
from fedveil.runs import Run
from fedveil.storage import disk
from fedveil.tracking import mirror
from fedveil_strategies import rounds
from fedveil_strategies.session import Session


class Watch:
    """The observers of one session; `history` holds one plain record per finished round."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.history: list[dict[str, Any]] = [dict(entry) for entry in session.history]
        self.warm: Mapping[str, Any] | None = session.warm_start

    def warm_start(self) -> None:
        """Show what a warm start knows before round 1: what training is to be measured against."""
        session = self.session
        begins = session.start.round == session.stage.first - 1
        if session.settings.train.warm_start is None or session.stage.phase is not None or not begins:
            return
        set_tensors(session.backbone, session.start.tensors)
        found = evaluated(session)
        session.console.say(f"warm start: accuracy {100 * found.accuracy:.1f} %, EER {100 * found.eer:.1f} %")
        self.warm = records.plain({"round": session.start.round, "accuracy": found.accuracy, "eer": found.eer})
        mirror.warm_start(session.tracker, self.warm)

    def evaluate(self, report: RoundReport) -> None:
        """Measure the new model on public pairs with one draw, every n-th round, and remember the round."""
        settings, claimed = self.session.settings, self.session.claims()
        entry: dict[str, Any] = {
            "round": report.round,
            "accuracy": None,
            "statements": [
                {"unit": s.unit, "relation": s.relation, "view": s.view, "epsilon": s.epsilon, "delta": s.delta}
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
        arrays, meta = checkpoint(self.session, state, self.history, seconds, self.warm)
        runs.write_packed(self.session.run.checkpoint, arrays, meta, private=True)

    def again(self) -> None:
        """Track what an earlier attempt knew: it may have ended between checkpoint and tracking, or told nobody."""
        mirror.warm_start(self.session.tracker, self.warm)
        mirror.rounds(self.session.tracker, self.history)

    def track(self, report: RoundReport) -> None:
        """Show the round on the terminal and in MLflow; failures go to the operator's log alone."""
        entry = self.history[-1]
        self.session.console.round(entry, report)
        mirror.rounds(self.session.tracker, self.history, last_alone=True)
        failed(self.session.run, report.round, report.failures)


def failed(run: Run, number: int, failures: Sequence[Failure]) -> None:
    """Name those whose update a round misses, with the reason, in the operator's log."""
    to_operator(run, *(f"round {number} client {one.client_id}: {one.reason}" for one in failures))


def to_operator(run: Run, *lines: str) -> None:
    """Write lines to the operator's log, which nobody else can read."""
    if lines:
        disk.append(run.folder / "operator.log", "".join(f"{line}\n" for line in lines))


def evaluated(session: Session, draws: int = 1, repeats: int = 0) -> protocol.Result:
    """Evaluate the session's backbone on its public pairs, with `repeats` bootstrap samples for an interval."""
    federation, wanted = session.federation, session.settings.evaluation
    return protocol.evaluate(
        session.backbone, federation.protection, session.state, federation.pairs, draws=draws,
        seed=session.settings.seed, gallery=wanted.gallery, fars=wanted.far, repeats=repeats,
        place=federation.place, flip=recipe.evaluates_flips(session.settings, federation.protection),
    )  # fmt: skip


def checkpoint(
    session: Session,
    state: rounds.State,
    history: Sequence[Mapping[str, Any]],
    seconds: float,
    warm: Mapping[str, Any] | None = None,
) -> tuple[runs.Arrays, dict[str, Any]]:
    """Return what a checkpoint after a round holds: tensors, optimiser, the protection's state; history."""
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
    return arrays, meta if warm is None else {**meta, "warm_start": dict(warm)}


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
            folder / "roc.png", [far for far, _ in found.roc], [tar for _, tar in found.roc], settings.method
        ),
    ]
    shape = session.federation.protection.shape_picture(session.state)
    if shape is not None:
        made.append(pictures.budget_shape(folder / "budget_shape.png", shape))
    if session.federation.public.synthetic:
        rows = faces.sample(session.federation.protection, session.state, session.federation.public)
        made.append(faces.face_grid(folder / "faces.png", rows))
    return made


def _client_epsilon(entry: Mapping[str, Any]) -> float | None:
    """Return the client-level epsilon spent after a round."""
    return next((s["epsilon"] for s in entry["statements"] if s["unit"] == "client"), None)
