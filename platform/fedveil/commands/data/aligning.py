"""`fedveil data align`: photographs and landmarks to aligned faces."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedveil import checks, console
from fedveil.data import aligning

OPTIONS = ("out", "photographs", "landmarks", "size")
_LISTED = 10


def run(chosen: argparse.Namespace) -> int:
    """Align every face of the list, and say what was done."""
    for option in ("photographs", "landmarks"):
        if getattr(chosen, option) is None:
            raise checks.UserError(
                f"--{option} is missing: `fedveil data align --photographs FOLDER --landmarks FILE.csv`. fedveil finds "
                "no faces itself; docs/data.md says what the file holds and how to make it."
            )
    if chosen.words:
        raise checks.UserError(f"{chosen.words[0]} does nothing here: `fedveil data align` reads no words.")
    out = chosen.out or Path("aligned")
    bar = console.Console()
    done = aligning.align(
        chosen.photographs, chosen.landmarks, out, chosen.size or 112,
        lambda ready, total: bar.progress(ready, total, "aligning"),
    )  # fmt: skip
    lines = [f"{out}: {done.written} aligned faces of {chosen.size or 112} pixels"]
    lines += [f"left out: {problem}" for problem in done.problems[:_LISTED]]
    if len(done.problems) > _LISTED:
        lines.append(f"and {len(done.problems) - _LISTED} more")
    lines.append(f"train on them: data=folder data.root={out}")
    console.tell("\n".join(lines))
    return 0
