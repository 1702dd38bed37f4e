"""Open the MLflow UI on the run store, complete.

What a tracker that failed has missed is sent first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from fedveil import config, console
from fedveil.tracking import mirror, stores

EXAMPLES = """examples:
  fedveil ui                     # the runs of this folder, in your browser
  fedveil ui --port 5001 runs.root=elsewhere
"""

READS = ("runs", "tracking")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. runs.root=elsewhere tracking.uri=http://...")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (default 5000)")


def run(chosen: argparse.Namespace) -> int:
    """Serve the pages until Ctrl-C."""
    settings = config.load(chosen.words)
    root, store = Path(settings.runs.root), stores.chosen(settings.tracking, Path(settings.runs.root))
    if store.said:
        console.tell(store.said)
    for federation, run in mirror.missing(root, store):
        if sent := mirror.catch_up(federation, run):
            console.tell(sent)
    command, environment = stores.ui_command(store, chosen.host, chosen.port)
    console.tell(f"MLflow UI at http://{chosen.host}:{chosen.port} (Ctrl-C stops it)")
    console.tell("Runs are under Experiments > fedveil > Training runs; a sweep's are behind the + beside it.")
    try:
        return subprocess.run(command, check=False, env={**os.environ, **environment}).returncode
    except KeyboardInterrupt:
        return 0
