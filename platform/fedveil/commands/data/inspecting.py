"""`fedveil data inspect`: what a data set holds, what is wrong with it."""

from __future__ import annotations

import argparse

from fedveil import config, console
from fedveil.data import inspect
from fedveil.federation.federation import Federation

OPTIONS = ()


def run(chosen: argparse.Namespace) -> int:
    """Print the report."""
    settings = config.load(chosen.words)
    pairs = Federation(settings).pairs if settings.evaluation.pairs is not None else None
    report = inspect.inspect(settings.data.name, config.build(settings, "data"), settings.seed, pairs)
    console.tell(str(report))
    return 0
