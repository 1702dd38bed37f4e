"""Inspect a data source: what it holds, what is wrong with it."""

from __future__ import annotations

import argparse

from fedveil import config, console
from fedveil.data import inspect
from fedveil.federation.federation import Federation

EXAMPLES = """examples:
  fedveil data inspect data=procedural
  fedveil data inspect data=folder data.root=faces data.evaluation=procedural
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", choices=["inspect"])
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. data=folder data.root=faces")


def run(chosen: argparse.Namespace) -> int:
    """Print the report."""
    settings = config.load(chosen.words)
    pairs = Federation(settings).pairs if settings.evaluation.pairs is not None else None
    report = inspect.inspect(settings.data.name, config.build(settings, "data"), settings.seed, pairs)
    console.tell(str(report))
    return 0
