"""Run a grid of federations, attack them, and draw accuracy against budget."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from fedveil import console, runs, tracking
from fedveil.commands.sweep import described, live, report, sweep
from fedveil.tracking import mirror

EXAMPLES = """examples:
  fedveil sweep protection=none,dctdp seed=1,2,3   # six runs, one per core
  fedveil sweep protection.total_epsilon=8,50,200 seed=1,2 train.rounds=12
  fedveil sweep privacy.client.epsilon=1,2,4,8,inf protection=none seed=1,2,3
  fedveil sweep study=first_frontier               # about five minutes
  fedveil sweep study=quick_frontier               # every method, with attacks
  fedveil sweep protection=none,dct attack=linear attack.victims=100
  The same command again goes on where it stopped; finished runs and attacks
  stay as they are.
"""

TRACKS = True


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="key=a,b,c sweeps; attack=NAME,NAME")
    parser.add_argument("--workers", metavar="N", type=int, help="runs at once (default: one per core given)")
    parser.add_argument("--name", metavar="NAME", help="id of the sweep instead of a hash of its grid")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write what it found here, as JSON")
    parser.add_argument("--plain", action="store_true", help="a line per finished run instead of a live table")


def run(chosen: argparse.Namespace) -> int:
    """Run what is not finished, several at a time, and print the frontier; status 1 when a run failed."""
    made = sweep.prepare(chosen.words, chosen.name)
    cells, again = made.grid.cells, shlex.join(["fedveil", "sweep", *made.words])
    workers = min(sweep.cores() if chosen.workers is None else chosen.workers, len(cells))
    console.tell(f"{made.sweep_id} in {made.root}/: {len(cells)} runs, {workers} at once")
    for note in made.grid.notes:
        console.tell(note)
    if said := mirror.store_of(cells[0].settings).said:
        console.tell(said)
    tracker = tracking.open_tracker(cells[0].settings.tracking, made.root)
    try:
        with live.Live(chosen.plain) as view:
            outcomes = sweep.run(made, workers, view.show, lambda: tracker.start(described.begun(made)))
    except KeyboardInterrupt:
        tracker.finish("KILLED")
        named = f" --name {chosen.name}" if chosen.name else ""
        console.complain(f"\ninterrupted; all workers are stopped. `{again}{named}` goes on where it stopped")
        return 130
    for outcome in outcomes:  # what an earlier attempt could not send
        if outcome.earlier and (sent := mirror.catch_up(outcome.cell.federation, made.run_of(outcome.cell))):
            print(sent)
    text, found = report.finish(made, outcomes, tracker)
    failed = any(outcome.state == "failed" for outcome in outcomes)
    tracker.finish("FAILED" if failed else "FINISHED")
    if chosen.json is not None:
        runs.write_json(chosen.json, found)
    console.tell(text)
    return int(failed)
