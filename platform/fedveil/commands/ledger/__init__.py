"""Say in plain sentences what a run may claim, or what an owner has spent."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedveil import checks, config, console, runs
from fedveil.commands.ledger import curves, report

EXAMPLES = """examples:
  fedveil ledger 20260102-030405-dctdp-1f2e3d   # what a run may claim
  fedveil ledger --owner hospital-7             # what an owner has spent so far
  fedveil ledger --owner hospital-7 --picture spent.png   # as a picture, too
"""

READS = ("runs", "vault", "policy")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_id", nargs="?", metavar="RUN_ID", help="a run of the run store")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="of runs, vault and policy")
    parser.add_argument("--owner", metavar="DATA_SET", help="a data set's id in the vault's ledger")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write it here, as JSON")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="also draw epsilon over rounds or runs, as PNG")


def run(chosen: argparse.Namespace) -> int:
    """Print the ledger of a run or of an owner."""
    if (chosen.run_id is None) == (chosen.owner is None):
        raise checks.UserError("Name one: `fedveil ledger RUN_ID`, or `fedveil ledger --owner DATA_SET`.")
    settings = config.compose(chosen.words)  # totals stand at the deltas of policy, whether or not there is a limit
    if chosen.owner is not None:
        found = report.of_owner(Path(settings.vault.root), chosen.owner, settings.policy)
    else:
        found = report.of_run(Path(settings.runs.root), str(chosen.run_id))
    if chosen.json is not None:
        runs.write_json(chosen.json, found)
    console.tell(report.text(found))
    if chosen.picture is not None:
        if chosen.owner is not None:
            curves.of_owner(Path(settings.vault.root), chosen.owner, settings.policy, chosen.picture)
        else:
            curves.of_run(Path(settings.runs.root), str(chosen.run_id), chosen.picture)
        console.tell(f"picture {chosen.picture}")
    return 0
