"""Open the MLflow UI on accuracy against budget, complete.

What a tracker that failed has missed is sent first, and the page's view is written anew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from fedveil import checks, config, console
from fedveil.tracking import mirror, pages, stores

EXAMPLES = """examples:
  fedveil ui                     # the runs of this folder, in your browser
  fedveil ui --port 5001 runs.root=elsewhere
  fedveil ui --no-browser        # only say the address
"""

READS = ("runs", "tracking")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. runs.root=elsewhere tracking.uri=http://...")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (default 5000)")
    parser.add_argument("--no-browser", action="store_true", help="open no browser (it opens from a terminal alone)")


def run(chosen: argparse.Namespace) -> int:
    """Serve the pages until Ctrl-C."""
    settings = config.load(chosen.words)
    root, store = Path(settings.runs.root), stores.chosen(settings.tracking, Path(settings.runs.root))
    if store.said:
        console.tell(store.said)
    pages.check_free(chosen.host, chosen.port)
    for federation, run in mirror.missing(root, store):
        if sent := mirror.catch_up(federation, run):
            console.tell(sent)
    command, environment = stores.ui_command(store, chosen.host, chosen.port)
    return _serve(command, {**os.environ, **environment, **pages.environment(chosen.host, chosen.port)}, store, chosen)


def _serve(command: list[str], environment: dict[str, str], store: stores.Store, chosen: argparse.Namespace) -> int:
    with _stopped_as_by_hand(), subprocess.Popen(command, env=environment, process_group=0) as server:
        try:
            return _open(server, store, chosen)
        except KeyboardInterrupt:
            return 0
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(server.pid, signal.SIGTERM)  # MLflow's own child is the one that serves


@contextlib.contextmanager
def _stopped_as_by_hand() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop the pages as Ctrl-C does: the server would outlive this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(server: subprocess.Popen[bytes], store: stores.Store, chosen: argparse.Namespace) -> int:
    address = pages.renewed(store, chosen.host, chosen.port)  # meanwhile the server starts
    if not pages.wait(server, chosen.host, chosen.port):
        raise checks.UserError(f"MLflow's server did not start on {chosen.host}:{chosen.port}; what it said is above.")
    console.tell("Accuracy against budget and leakage (Ctrl-C stops the pages):")
    print(address, flush=True)  # longer than a line, and in one piece: it is to be clicked
    console.tell("The list of all numbers is the first of the three buttons above the runs.")
    if sys.stdout.isatty() and not chosen.no_browser:
        webbrowser.open(address)
    return server.wait()
