"""One federation from configuration to result, free of Flower.

Public artefacts first (the budget's shape, the initial backbone), then the run ledger, then rounds; observers evaluate,
checkpoint and track. A session that is opened again goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedveil import config, federation, records, runs
from fedveil.console import Console
from fedveil.data import partition
from fedveil.data.split import Split
from fedveil.evaluation import protocol
from fedveil.privacy import statements
from fedveil.privacy.events import Event, LocalRelease
from fedveil.privacy.ledger import Ledger, Row
from fedveil.records import Failure, Tensors, Update
from fedveil.runs import Run
from fedveil.schema import Config
from fedveil.tracking import Tracker
from fedveil_strategies import observers, rounds

StatefulTransport = Callable[[int, Sequence[str], Tensors, Mapping[str, Any]], Iterable[Update | Failure]]


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """A run that is open: its configuration, folder, public artefacts and where it stands.

    Attributes:
        state: the protection's public state (the learnt budget's shape, for instance).
        history: what every finished round's evaluation found.
    """

    settings: Config
    run: Run
    split: Split
    protection: Any
    state: Mapping[str, torch.Tensor]
    backbone: torch.nn.Module
    start: rounds.State
    history: tuple[Mapping[str, Any], ...]
    statements: tuple[statements.Statement, ...]
    tracker: Tracker
    console: Console
    begun: float

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.run_id


def open_session(settings: Config, run_id: str, progress: str) -> Session:
    """Open a new run, or the one that `run_id` names, and book what it will release before anything is released."""
    begun = time.perf_counter()
    console = Console(progress)
    run = Run(Path(settings.runs.root), run_id or runs.new_run_id(settings.protection.name))
    protection = config.build(settings, "protection")
    split = federation.split(settings)
    size = split.train.size
    if not run.config.exists():
        runs.write_json(run.config, config.to_tree(settings))
    tracker = observers.start_tracker(settings, run)
    arrays, meta = runs.unpack(run.checkpoint) if run.checkpoint.exists() else ({}, {"round": 0, "history": []})
    state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("state/")}
    if not arrays:
        console.say(protection_phase(settings, protection))
        state = protection.fit(split.public.images(), split.public.labels, settings.seed, console.progress)
    backbone = federation.backbone(settings, protection, size)
    tensors = {name[7:]: value for name, value in arrays.items() if name.startswith("tensor/")}
    if not tensors:
        tensors = _initial(settings, backbone)
    optimiser = {name[10:]: value for name, value in arrays.items() if name.startswith("optimiser/")}
    event = federation.release_event(settings, protection, size, state)
    claimed = statements.price_all(_booked(run, event, settings))
    start = rounds.State(int(meta["round"]), tensors, optimiser)
    return Session(
        settings, run, split, protection, state, backbone, start, tuple(meta["history"]), tuple(claimed), tracker,
        console, begun,
    )  # fmt: skip


def protection_phase(settings: Config, protection: Any) -> str:
    """Return the line that announces what is learnt before the first round."""
    learnt = " (learning its budget on public faces)" if protection.needs_fit else ""
    return f"protection {settings.protection.name}{learnt}"


def _initial(settings: Config, backbone: torch.nn.Module) -> dict[str, Any]:
    warm = settings.train.warm_start
    if warm is None:
        return dict(federation.get_tensors(backbone))
    path = Path(warm)
    if not path.is_file():
        path = runs.open_run(Path(settings.runs.root), warm).checkpoint
    arrays, _ = runs.unpack(path)
    loaded = {name[7:]: value for name, value in arrays.items() if name.startswith("tensor/")}
    federation.set_tensors(backbone, loaded)
    return dict(federation.get_tensors(backbone))


def _booked(run: Run, event: Event, settings: Config) -> list[Event]:
    """Write the run's event to its ledger and return all that the run has released so far.

    A memoised release happens once however often the run is taken up again. Fresh noise is drawn again by every
    attempt, so every attempt is a row, and equal rows compose.
    """
    ledger = Ledger(run.ledger)
    note = "" if settings.privacy.test_seed is None else "NOT PRIVATE: fixed noise (privacy.test_seed)"
    row = Row(run.run_id, "run", "spent", event, note)
    fresh = isinstance(event, LocalRelease) and event.releases > 1 and settings.privacy.test_seed is None
    if fresh or not ledger.has(row):
        ledger.append([row])
    if not isinstance(event, LocalRelease):
        return [event]
    attempts = sum(1 for found in ledger.rows() if found.event == event)
    return [dataclasses.replace(event, releases=event.releases * attempts)]


def coordinate(session: Session, transport: StatefulTransport) -> dict[str, Any]:
    """Run the remaining rounds, evaluate, write result.json and return its content."""
    settings = session.settings
    names = list(session.start.tensors)
    plan = rounds.Plan(
        rounds=settings.train.rounds,
        registry=partition.client_ids(settings.train.clients),
        cohort=settings.train.cohort,
        seed=settings.seed,
        allowed=federation.trainable(settings, names),
    )
    watch = observers.Watch(session)
    session.console.begin(plan.rounds, session.start.round, list(session.history))

    def stateful(number: int, cohort: Sequence[str], tensors: Tensors) -> Iterable[Update | Failure]:
        return transport(number, cohort, tensors, session.state)

    aggregation = config.build(settings, "aggregation")
    try:
        end = rounds.run(plan, session.start, stateful, aggregation, [watch.evaluate, watch.checkpoint, watch.track])
    except BaseException:
        session.tracker.finish("FAILED")
        raise
    finally:
        session.console.end()
    return finish(session, watch, end)


def finish(session: Session, watch: observers.Watch, end: rounds.State) -> dict[str, Any]:
    """Evaluate the last model with all draws, write result.json and the pictures, close tracking."""
    settings = session.settings
    federation.set_tensors(session.backbone, end.tensors)
    session.console.say("final evaluation")
    found = protocol.evaluate(
        session.backbone, session.protection, session.state, session.split.evaluation,
        draws=settings.evaluation.draws, seed=settings.seed, gallery=settings.evaluation.gallery,
        fars=settings.evaluation.far, repeats=settings.evaluation.bootstrap,
    )  # fmt: skip
    formal = [statement for statement in session.statements if statement.epsilon is not None]
    test_seed = settings.privacy.test_seed is not None
    result = {
        "run_id": session.run_id,
        "config_hash": config.digest(settings),
        "rounds": [*watch.history],
        "final": observers.final_numbers(found),
        "statements": [statement.to_dict() for statement in session.statements],
        "model_sha256": records.model_sha256(end.tensors),
        "noise_source": "test seed" if test_seed else "operating system" if formal else "none",
        "private": bool(formal) and not test_seed and all(s.meaningful for s in session.statements),
        "wall_seconds": watch.seconds_before + time.perf_counter() - session.begun,
        "peak_memory_mb": observers.peak_memory_mb(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(records.plain(result), allow_nan=False))
    runs.write_json(session.run.result, plain)
    observers.publish(session, plain, found, end.tensors)
    return plain
