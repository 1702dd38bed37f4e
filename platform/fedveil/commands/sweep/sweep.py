"""A sweep: many runs of one grid, several at a time, each in its own process; killed at any moment, it goes on.

A sweep's id is a hash of its grid (or a given name) and a run's id is the sweep's with a hash of the run's
configuration, so the same command finds what is there: finished runs and attacks are read, half-finished runs go on
from their checkpoints. A cell is finished when its run and all attacks on it are. `runs/<sweep id>/` holds sweep.json
(the grid, the attacks, and where every run stands), the frontier and its tables.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fedveil import checks, config, engine, readback, runs
from fedveil.attacks._chosen import Chosen, apart
from fedveil.commands import simulate
from fedveil.commands.sweep import attacks, blocks, grid, held, process
from fedveil.commands.sweep.grid import Cell, Grid
from fedveil.commands.sweep.process import Worker
from fedveil.configuration.schema import Engine
from fedveil.storage import addresses

State = Literal["waiting", "running", "finished", "failed", "stopped"]
_POLL = 0.2  # seconds


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Where one run, and the attacks on it, stand.

    Attributes:
        cell: its configuration.
        run_id: its folder's name in the run store.
        state: waiting, running, finished, failed, or stopped by Ctrl-C.
        round: last finished round, 0 before the first.
        result: result.json's content once the run is finished, whatever became of the attacks.
        reason: why it failed, one line.
        earlier: it was finished before this command.
        attack: the attack that is being run and how far it is, percent; None before the first.
        findings: of the sweep's attacks on it, by their files' names.
    """

    cell: Cell
    run_id: str
    state: State = "waiting"
    round: int = 0
    result: Mapping[str, Any] | None = None
    reason: str = ""
    earlier: bool = False
    attack: tuple[str, int] | None = None
    findings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid under its id, and the attacks that are run on each of its runs."""

    sweep_id: str
    words: tuple[str, ...]
    grid: Grid
    attacks: tuple[Chosen, ...] = ()

    @property
    def root(self) -> Path:
        """The run store."""
        return Path(self.grid.cells[0].settings.runs.root)

    @property
    def fixed(self) -> bool:
        """Whether the grid was fixed before its first run: with a name of its own, values can be added later."""
        return self.sweep_id == f"sweep-{self.grid.name}"

    @property
    def folder(self) -> Path:
        """Where the sweep's own files are."""
        return self.root / self.sweep_id

    def run_id(self, cell: Cell) -> str:
        """Return the id of a cell's run: the same at every attempt."""
        return f"{self.sweep_id}-{cell.name}"

    def run_of(self, cell: Cell) -> runs.Run:
        """Return the folder of a cell's run."""
        return runs.Run(self.root, self.run_id(cell))


View = Callable[[Sequence[Outcome]], None]


def prepare(words: Sequence[str], name: str | None = None) -> Sweep:
    """Return the sweep of command-line words, every run's configuration checked.

    Raises:
        fedveil.checks.UserError: a word is wrong, or asks for what a run would refuse.
    """
    words = addresses.words_without_secrets(words)
    if name == "":
        raise checks.UserError("--name is empty: an unset variable of the shell? Leave it out for the grid's own name.")
    mine, others = apart(words)
    made = grid.expand(others)
    chosen = attacks.of(mine, blocks.said(others).get("study"))
    sweep = Sweep(f"sweep-{name or made.name}", tuple(words), made, chosen)
    sweep.run_of(made.cells[0])  # refuses a name that is no folder's
    for cell in made.cells:
        engine.load("fedveil_clients.vault_folder:usable")(simulate.node_words(cell.settings))
    return sweep


def run(sweep: Sweep, workers: int, view: View, begin: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Run what is not finished yet, `workers` processes at a time, and return where every run stands.

    Ctrl-C (or SIGTERM) stops all workers and raises KeyboardInterrupt; a failing run never stops the others.

    Args:
        sweep: what to run.
        workers: processes; each uses one thread.
        view: is shown the outcomes, several times a second.
        begin: called once nobody else runs this sweep, before the first run: opens the tracker.

    Raises:
        fedveil.checks.UserError: the sweep is running already, or its folder holds runs of something else.
    """
    checks.positive(workers=workers)
    with held.alone(sweep.sweep_id, sweep.root, sweep.folder), held.terminated_as_interrupt():
        outcomes = {cell.name: _found(sweep, cell) for cell in sweep.grid.cells}
        begin()
        running: dict[str, Worker] = {}
        _save(sweep, outcomes, "running")
        try:
            while unfinished := [o for o in outcomes.values() if o.state in ("waiting", "running")]:
                changed = False
                for outcome in sorted(unfinished, key=_tells_time):
                    new = _advance(sweep, outcome, running, workers)
                    changed |= new.state != outcome.state
                    outcomes[outcome.cell.name] = new
                if changed:
                    _save(sweep, outcomes, "running")
                view([*outcomes.values()])
                process.wait_for_one(running.values(), _POLL)
        except BaseException:
            _stop(running)
            for name, outcome in outcomes.items():
                if outcome.state == "running":
                    outcomes[name] = dataclasses.replace(outcome, state="stopped")
            _save(sweep, outcomes, "interrupted")
            view([*outcomes.values()])
            raise
        view([*outcomes.values()])
        failed = any(outcome.state == "failed" for outcome in outcomes.values())
        _save(sweep, outcomes, "failed" if failed else "finished")
    return [*outcomes.values()]


def _tells_time(outcome: Outcome) -> bool:
    """Return whether how long a run takes is a secret: such runs come last, so that no other begins when one ends."""
    return outcome.cell.settings.privacy.client is not None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _found(sweep: Sweep, cell: Cell) -> Outcome:
    """Return a finished run on which all attacks were run as such, anything else as waiting, with what there is."""
    run_id, found = sweep.run_id(cell), sweep.run_of(cell)
    if not found.result.exists():
        return Outcome(cell, run_id)
    result = readback.result_of(found)
    if result["config_hash"] != config.digest(cell.settings):
        raise checks.UserError(
            f"{found.result} is the result of another configuration; remove it or give the sweep a --name."
        )
    findings, missing = attacks.found(found, sweep.attacks)
    done = Outcome(cell, run_id, "finished", cell.federation.total_rounds, result=result, findings=findings)
    return dataclasses.replace(done, state="waiting") if missing else dataclasses.replace(done, earlier=True)


def _advance(sweep: Sweep, outcome: Outcome, running: dict[str, Worker], workers: int) -> Outcome:
    """Start a waiting run if there is room, look after a running one, and return where it stands now."""
    name = outcome.cell.name
    if outcome.state == "waiting":
        if len(running) >= workers:
            return outcome
        log = sweep.run_of(outcome.cell).folder / "worker.log"
        alone = dataclasses.replace(outcome.cell.settings, engine=Engine("inline"))
        job = {"config": config.to_json(alone), "run_id": outcome.run_id, "parent": sweep.sweep_id,
               "attacks": attacks.job(sweep.attacks)}  # fmt: skip
        process.warm(alone)
        running[name] = Worker.start(job, log)
        return dataclasses.replace(outcome, state="running")
    worker = running[name]
    code = worker.process.poll()
    if code is None:
        at = max(outcome.round, worker.last_round())
        return dataclasses.replace(outcome, round=at, attack=worker.attack() or outcome.attack)
    del running[name]
    worker.close()
    return _ended(sweep, dataclasses.replace(outcome, round=max(outcome.round, worker.last_round())), worker, code)


def _ended(sweep: Sweep, outcome: Outcome, worker: Worker, code: int) -> Outcome:
    """Return where a run stands whose process has ended: what it has left decides, not its word alone."""
    failed = dataclasses.replace(outcome, state="failed", reason=worker.reason(code) if code else "")
    try:
        new = _found(sweep, outcome.cell)
    except checks.UserError as error:  # this run's failure, which stops no other
        return dataclasses.replace(failed, reason=failed.reason or str(error))
    if code == 0 and new.state == "finished":
        return dataclasses.replace(new, earlier=False)
    if new.result is not None:  # the run is there, attacks on it are not
        failed = dataclasses.replace(failed, round=new.round, result=new.result, findings=new.findings)
    what = "an attack left no finding" if new.result is not None else "it left no result"
    return dataclasses.replace(failed, reason=failed.reason or f"{what} ({worker.log})")


def _stop(running: dict[str, Worker]) -> None:
    """End all workers: asked first, so that they can close their tracking, then forced."""
    for worker in running.values():
        worker.interrupt()
    until = time.monotonic() + 5.0
    try:
        for worker in running.values():
            worker.wait(max(0.1, until - time.monotonic()))
    finally:  # a second Ctrl-C does not wait
        for worker in running.values():
            worker.kill()


def _save(sweep: Sweep, outcomes: Mapping[str, Outcome], state: str) -> None:
    """Write sweep.json: the grid, the attacks, and where every run stands."""
    cells = [
        {
            "run_id": outcome.run_id,
            "values": dict(outcome.cell.values),
            "state": outcome.state,
            "accuracy": outcome.result["final"]["accuracy"] if outcome.result else None,
            "findings": [*outcome.findings],
            "reason": outcome.reason,
        }
        for outcome in outcomes.values()
    ]
    tree = {
        "sweep_id": sweep.sweep_id,
        "state": state,
        "words": [*sweep.words],
        "grid": {key: [*values] for key, values in sweep.grid.axes.items()},
        "attacks": attacks.listed(sweep.attacks),
        "cells": cells,
    }
    runs.write_json(sweep.folder / "sweep.json", tree)
