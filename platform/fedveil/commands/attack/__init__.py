"""Attack a finished run, and say what its releases, updates or model tell.

What is found is a lower bound: it says what one attacker learns, never that nobody learns more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fedveil import config, console, runs
from fedveil.attacks import _chosen
from fedveil.commands._steps import Steps
from fedveil.commands.attack import attack, report

EXAMPLES = """examples:
  fedveil attack 20260102-030405-dctdp-1f2e3d        # linear and distillation
  fedveil attack 20260102-030405-dctdp-1f2e3d attack=decoder attack.images=5000
  fedveil attack 20260102-030405-none-1f2e3d attack=membership
  fedveil attack 20260102-030405-dct-1f2e3d attack.judge=recogniser.onnx
  An attack that was run is not run again; `--again` does.
"""

READS = ("attack", "runs", "tracking", "device", "device_batch")
TRACKS = True


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_id", metavar="RUN_ID", help="a finished run of the run store")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="attack=NAME,NAME attack.victims=100 ...")
    parser.add_argument("--again", action="store_true", help="run attacks again that were run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found here, as JSON")
    parser.add_argument("--plain", action="store_true", help="no progress bar")


def run(chosen: argparse.Namespace) -> int:
    """Run the attacks, and print a table of each."""
    mine, others = _chosen.apart(chosen.words)
    settings, attacks = config.load(others), _chosen.of(mine)
    found = []
    with Steps(chosen.plain) as steps:
        for finding in attack.attack(settings, chosen.run_id, attacks, steps.show, chosen.again):
            steps.clear()
            console.tell(report.text(finding))
            found.append(finding)
    if chosen.json is not None:
        runs.write_json(chosen.json, {"run_id": chosen.run_id, "findings": found})
    console.tell(report.closing(chosen.run_id, found))
    return 0
