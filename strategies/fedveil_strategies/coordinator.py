"""One federation from configuration to result, free of Flower.

Public artefacts first (the budget's shape, the initial backbone), then the run ledger, then rounds, stage by stage;
observers evaluate, checkpoint and track. A session that is opened again goes on from its last checkpoint; the first one
is written before round 1, so that public artefacts are learnt once.
"""

from __future__ import annotations

import contextlib
import json
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedveil import checks, config, device, readback, records, runs
from fedveil.configuration.schema import Config
from fedveil.console import Console
from fedveil.federation import claims, synthetic, warm_start
from fedveil.federation.federation import Federation
from fedveil.federation.instruction import one_line
from fedveil.federation.mechanism import mechanism_id
from fedveil.federation.tensors import set_tensors
from fedveil.privacy.accounting.pld import FINAL_GRID, LIVE_GRID
from fedveil.privacy.events import Event, LocalRelease, Synthetic
from fedveil.privacy.ledger import Ledger, Row
from fedveil.records import Failure, Tensors, Update
from fedveil.runs import Run
from fedveil.tracking import mirror
from fedveil_strategies import averaging, client_level, observers, phases, private_rounds, rounds
from fedveil_strategies.session import Session

StatefulTransport = Callable[[int, Sequence[str], Tensors, Mapping[str, Any]], Iterable[Update | Failure]]


def open_session(
    federation: Federation,
    run_id: str,
    progress: str,
    parent: str = "",
    admit: Callable[[Run], None] = lambda run: None,
    began: float | None = None,
) -> Session:
    """Open a new run, or the one that `run_id` names, and book what it will release before anything is released.

    Args:
        federation: of the run's configuration, complete.
        run_id: empty for a new one.
        progress: see `console.Console`.
        parent: id of the sweep that the run belongs to in MLflow; empty for none.
        admit: told of the run's folder once it is this process's alone: the roll call keeps there who has which vault.
        began: when whoever waits for the run began to, `time.perf_counter`: it took the time since; None for now.

    Raises:
        fedveil.checks.UserError: the run is open elsewhere, or began with other settings. A run that is refused before
            it began leaves nothing behind.
    """
    began = time.perf_counter() if began is None else began
    settings = federation.settings
    run = Run(Path(settings.runs.root), run_id or runs.new_run_id(settings.method))
    federation.check()  # data that cannot be had, or a registry that it cannot fill, leaves no folder behind
    lock = runs.lock(run)
    before = [*run.folder.iterdir()]
    try:
        if settings.privacy.client is not None:
            runs.close_to_others(run)
        return _opened(federation, run, progress, parent, admit, lock, began)
    except BaseException as error:
        if isinstance(error, checks.UserError):
            runs.take_back(run, before)
        lock.close()
        raise


def _opened(
    federation: Federation, run: Run, progress: str, parent: str, admit: Callable[[Run], None], lock: runs.Lock,
    began: float,
) -> Session:  # fmt: skip
    console = Console(progress)
    settings, protection, public = federation.settings, federation.protection, federation.public
    _claim(run, settings)
    arrays, meta = readback.checkpoint_of(run)
    state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("state/")}
    if not arrays:
        console.say(protection_phase(federation))
        state = {}
        if protection.needs_fit:  # else no public face is read, which for drawn ones is most of opening a run
            state = protection.fit(
                public.images(), public.labels, settings.seed, console.progress, federation.place.exact
            )
    backbone = federation.place.module(federation.backbone())
    stage = federation.stages[_stage(run, federation, meta)]
    tensors = {name[7:]: value for name, value in arrays.items() if name.startswith("tensor/")}
    if arrays:
        _fits(run, federation.network(stage, state), tensors)
    else:
        tensors = phases.initial(federation, stage, state, backbone, {}, console.progress)
    optimiser = {name[10:]: value for name, value in arrays.items() if name.startswith("optimiser/")}
    admit(run)
    readback.ledger_of(run)  # refused here if it was cut since
    event = federation.release_event(state)
    _book(federation, run, event, state, bool(arrays))
    plan = phases.plan_of(federation, stage, tensors)
    level = _client_level(federation, plan, run, tensors, console)
    private = None
    if federation.private is not None:
        private = private_rounds.PrivateRounds(federation, Ledger(run.ledger), run.run_id)
        for line in private.lines(backbone, plan.allowed):
            console.say(textwrap.fill(line, 80))
    start = rounds.State(int(meta["round"]), tensors, optimiser, meta.get("memory", {}))
    learnt = [row.event for row in Ledger(run.ledger).rows(run.run_id) if isinstance(row.event, Synthetic)]
    planned = claims.planned(federation, event, LIVE_GRID, learnt)
    if said := mirror.store_of(settings).said:
        console.say(said)
    tracker = mirror.start(federation, run, planned.noise_source == "operating system", parent)
    return Session(
        federation, run, state, backbone, stage, start, tuple(meta["history"]), plan, level, tracker, console,
        began, float(meta.get("seconds", 0.0)), lock, meta.get("warm_start"), private,
    )  # fmt: skip


def _stage(run: Run, federation: Federation, meta: Mapping[str, Any]) -> int:
    """Return the number of the stage that a checkpoint was written in."""
    number = int(meta.get("stage", 0))
    if not 0 <= number < len(federation.stages):
        raise checks.UserError(f"{run.checkpoint} is the checkpoint of another run; restore this run's own.")
    return number


def _fits(run: Run, network: torch.nn.Module, tensors: Tensors) -> None:
    """Refuse a checkpoint whose tensors are not the network's."""
    try:
        set_tensors(network, tensors)
    except checks.UserError as error:
        raise checks.UserError(f"{run.checkpoint} holds another network; restore this run's own. {error}") from error


def _client_level(
    federation: Federation, plan: rounds.Plan, run: Run, tensors: Tensors, console: Console
) -> client_level.ClientLevel | None:
    if federation.settings.privacy.client is None:
        return None
    level = client_level.ClientLevel(federation, plan, Ledger(run.ledger), run.run_id)
    client_level.check_start(federation)
    for line in level.lines(sum(tensors[name].size for name in plan.allowed)):
        console.say(textwrap.fill(line, 80))
    return level


def _claim(run: Run, settings: Config) -> None:
    """Write a new run's configuration, or refuse to go on with another one under its id."""
    if not run.config.exists():
        runs.write_json(run.config, config.to_tree(settings))
        return
    kept = readback.settings_of(run)
    if config.digest(kept) != config.digest(settings):
        old, new = config.flat(kept), config.flat(settings)
        changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        raise checks.UserError(f"Run {run.run_id} began with other settings ({', '.join(changed)}); use a new run id.")


def protection_phase(federation: Federation) -> str:
    """Return the line that announces what is learnt before the first round."""
    if federation.settings.generator.name != "none":
        return f"generator {federation.settings.generator.name} (its recogniser is public and stays as it is)"
    learnt = " (learning on public faces)" if federation.protection.needs_fit else ""
    return f"protection {federation.settings.protection.name}{learnt}"


def _book(
    federation: Federation, run: Run, event: Event, state: Mapping[str, torch.Tensor], continued: bool
) -> None:
    """Write to the run's ledger what it will release of an image, and starts and synthetic faces that tell of somebody.

    What synthetic faces were made from is read when a run begins: when it goes on, their file may be gone.

    Copies that are drawn once are one release of their mechanism, however often the run was interrupted; another
    mechanism draws other copies, and is a row of its own. Without kept copies every attempt draws afresh, unless the
    noise is fixed, and each is a row.
    """
    ledger, note = Ledger(run.ledger), claims.note_of(federation)
    leak = warm_start.leak(federation.settings)
    if leak is not None:
        ledger.append_once(Row(run.run_id, "run", "spent", leak, note))
    for learnt in () if continued else synthetic.learnt(federation.settings):
        ledger.append_once(Row(run.run_id, "run", "spent", learnt, note))
    if not claims.tells(federation, event):
        return
    kept = isinstance(event, LocalRelease) and event.releases == 1
    row = Row(run.run_id, "run", "spent", event, note, mechanism=mechanism_id(federation, state).hex() if kept else "")
    fresh = isinstance(event, LocalRelease) and event.releases > 1 and not note
    # A checkpoint that an earlier version wrote goes on with its state, and that version named no mechanism.
    known = {row.mechanism, ""} if continued else {row.mechanism}
    there = (one for one in ledger.rows(run.run_id) if (one.event, one.status) == (event, row.status))
    if fresh or not any(one.mechanism in known for one in there):
        ledger.append([row])


def report(session: Session, news: Sequence[str]) -> None:
    """Show the operator what a roll call has found, and write it into the operator's log.

    Under a client-level claim who takes part is for the log alone: a terminal is easily shown to somebody.
    """
    observers.to_operator(session.run, *news)
    if session.level is None:
        for line in news:
            session.console.say(textwrap.fill(line, 80, subsequent_indent="  "))
    elif news:
        session.console.say(f"roll call: {len(news)} remarks in {session.run.folder / 'operator.log'}")


def coordinate(session: Session, transport: StatefulTransport) -> dict[str, Any]:
    """Run the remaining rounds, evaluate, write result.json and return its content."""
    watch = observers.Watch(session)
    total = session.federation.total_rounds
    try:
        if not session.run.checkpoint.exists():  # what was learnt is what a run that goes on draws its copies under
            watch.save(session.start)
        else:
            observers.to_operator(session.run, f"taken up again after round {session.start.round}")
        watch.warm_start()
        session.console.begin(total, session.start.round, list(session.history))
        watch.again()
        end = _train(session, watch, transport)
        while session.stage.phase is not None:
            session = watch.session = phases.advance(session, end)
            watch.save(session.start)
            watch.warm_start()
            end = _train(session, watch, transport)
        if end.round < total:
            session.console.say(f"the budget is spent after round {end.round} of {total}: stopped")
        session.console.end()
        return finish(session, watch, end)
    except BaseException as error:
        with contextlib.suppress(OSError, checks.UserError):  # a full disk may be the reason
            if isinstance(error, rounds.RoundFailed):
                observers.failed(session.run, error.round, error.failures)
            observers.to_operator(session.run, f"stopped: {one_line(error)}")
        session.tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    finally:
        session.console.end()
        if session.lock is not None:
            session.lock.close()


def _train(session: Session, watch: observers.Watch, transport: StatefulTransport) -> rounds.State:
    """Run the remaining rounds of the session's stage."""

    def stateful(number: int, cohort: Sequence[str], tensors: Tensors) -> Iterable[Update | Failure]:
        if session.private is not None:
            session.private.ask(number)
        return transport(number, cohort, tensors, session.state)

    aggregation = averaging.rule(session.federation, session.stage)
    sent = averaging.sent(session.federation, session.plan)
    watching = [watch.evaluate, watch.checkpoint, watch.track]
    level = session.level
    if level is None:
        return rounds.run(session.plan, session.start, stateful, aggregation, watching, sent=sent)
    return rounds.run(
        session.plan, session.start, stateful, aggregation, watching, level.draw, level.combine, level.proceed, sent
    )


def _missing(session: Session, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many updates are missing over all rounds, and why; not where a claim makes it a secret."""
    if session.level is not None:
        return {}
    counts = {"excluded": 0, "refused": 0, "late": 0, "failed": 0}
    for entry in history:
        for kind, count in entry.get("missing", {}).items():
            counts[kind] += count
    return {"missing_updates": counts}


def finish(session: Session, watch: observers.Watch, end: rounds.State) -> dict[str, Any]:
    """Evaluate the last model with all draws, draw the pictures, write result.json, close tracking."""
    settings = session.settings
    set_tensors(session.backbone, end.tensors)
    session.console.say("final evaluation")
    found = observers.evaluated(session, settings.evaluation.draws, settings.evaluation.bootstrap)
    claimed = session.claims(FINAL_GRID)
    observers.draw(session, watch.history, found)
    result = {
        "run_id": session.run_id,
        "config_hash": config.digest(settings),
        "rounds": [*watch.history],
        "final": observers.final_numbers(found),
        "collapsed": found.collapsed,
        "statements": [statement.to_dict() for statement in claimed.statements],
        "model_sha256": records.model_sha256(end.tensors),
        "device": session.federation.place.name,
        **_missing(session, watch.history),
        "noise_source": claimed.noise_source,
        "private": claimed.private,
    }
    spent = {
        "wall_seconds": session.seconds_before + time.perf_counter() - session.begun,
        "peak_memory_mb": device.peak_memory_mb(),
    }
    if session.level is None:
        result |= spent
    else:  # how long and how large tells who took part
        observers.to_operator(session.run, ", ".join(f"{name} {value:.1f}" for name, value in spent.items()))
    plain: dict[str, Any] = json.loads(json.dumps(records.plain(result), allow_nan=False))
    if watch.warm is not None:
        plain["warm_start"] = dict(watch.warm)
    # result.json comes last: a run that has one is complete, and what a tracker is told is read from its folder.
    runs.write_json(session.run.result, plain)
    mirror.publish(session.federation, session.run, session.tracker)
    return plain
