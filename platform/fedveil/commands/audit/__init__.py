"""Attack what a run or a configuration claims: lower bounds on epsilon."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedveil import console, runs
from fedveil.commands.audit import audit, report

EXAMPLES = """examples:
  fedveil audit 20260102-030405-none-1f2e3d      # attack what a run claims
  fedveil audit protection=none privacy.client.epsilon=8 \\
      train.clients=2000 train.cohort.rate=0.25  # a run that never was
  fedveil audit protection=none privacy.image.epsilon=8 --repeats 200
  fedveil audit protection=dctdp protection.total_epsilon=8 --json audit.json
  Exit status 1 when a claim is refuted. No owner's data is used: canary
  clients and drawn patterns stand in for it.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_id", nargs="?", metavar="RUN_OR_WORD", help="a run of the run store, or the first word")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="with a run: runs.root=elsewhere")
    parser.add_argument("--canaries", type=int, default=1000, help="canary clients, images or people (default 1000)")
    parser.add_argument("--draws", type=int, default=100_000, help="draws of a single release (default 100000)")
    parser.add_argument("--repeats", type=int, default=100, help="private runs with and without one unit (default 100)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write it here, as JSON")


def run(chosen: argparse.Namespace) -> int:
    """Print every bound beside its claim; status 1 when one is refuted."""
    words = [*([] if chosen.run_id is None else [chosen.run_id]), *chosen.words]
    found = audit.audit(audit.subject(words), chosen.canaries, chosen.draws, repeats=chosen.repeats)
    if chosen.json is not None:
        runs.write_json(chosen.json, found)
    console.tell(report.text(found))
    return int(found["violated"])
