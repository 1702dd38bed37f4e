"""What the two studies of this folder share: a run, attacks on it one after another, and a line for each finding."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


def narrator(arm: str) -> Callable[[str], None]:
    """Return a function that says what an arm has done, with the time; everything else that prints is silent then."""
    screen, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - simulations have nothing to say
    begun = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - begun:6.0f} s  {arm}: {what}", file=screen, flush=True)

    return say


def attacked(federation: Any, run_id: str, attacks: Iterable[Sequence[str]], say: Callable[[str], None]) -> None:
    """Train a federation and attack it; what is there already is not done again.

    An attack that fails is told and stops no other; the next call tries it again.
    """
    from fedveil import runs
    from fedveil.attacks import _chosen
    from fedveil.commands import simulate
    from fedveil.commands.attack.attack import attack

    if not runs.Run(Path(federation.settings.runs.root), run_id).result.exists():
        result = simulate.simulate(federation, run_id, "quiet")
        say(f"accuracy {100 * result['final']['accuracy']:.1f} %")
    for chosen in (one for words in attacks for one in _chosen.of(words)):
        try:
            (found,) = attack(federation.settings, run_id, [chosen])
            say(f"{found['attack']}, {found['seconds']:.0f} s: {found['verdict']}")
        except Exception as error:
            say(f"{chosen.name} FAILED: {type(error).__name__}: {error}")


def lines(root: Path, run_ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a line for each finding on the finished runs {arm: run id}; a judge by its file's name alone."""
    from fedveil import readback, runs
    from fedveil.attacks import _kept

    for arm, run_id in run_ids.items():
        run = runs.Run(root, run_id)
        if not run.result.exists():
            continue
        result = readback.result_of(run)
        system = {"arm": arm, **{name: result["final"][name] for name in ("accuracy", "auc")},
                  "device": result.get("device", "")}  # fmt: skip
        for finding in _kept.findings_of(run):
            settings = finding["settings"]
            if settings.get("judge"):
                settings["judge"] = Path(settings["judge"]).name
            yield {**system, "finding": finding}
