"""`fedveil data align`: photographs and landmarks to aligned faces."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedveil import checks, console
from fedveil.data import aligning, detection

OPTIONS = ("out", "photographs", "landmarks", "detector", "size")
_LISTED = 10


def run(chosen: argparse.Namespace) -> int:
    """Align every face of the list, and say what was done."""
    if chosen.photographs is None or (chosen.landmarks is None) == (chosen.detector is None):
        raise checks.UserError(
            "`fedveil data align --photographs FOLDER` needs one of --landmarks FILE.csv and --detector FILE.onnx; "
            "docs/data.md says what they are and where they come from."
        )
    if chosen.words:
        raise checks.UserError(f"{chosen.words[0]} does nothing here: `fedveil data align` reads no words.")
    find: aligning.Find = (
        detection.Yunet(chosen.detector) if chosen.landmarks is None else aligning.Listed(chosen.landmarks)
    )
    out, bar = chosen.out or Path("aligned"), console.Console()
    done = aligning.align(
        chosen.photographs, find, out, chosen.size or 112,
        lambda ready, total: bar.progress(ready, total, "aligning"),
    )  # fmt: skip
    lines = [f"{out}: {done.written} aligned faces of {chosen.size or 112} pixels"]
    lines += [f"left out: {problem}" for problem in done.problems[:_LISTED]]
    if len(done.problems) > _LISTED:
        lines.append(f"and {len(done.problems) - _LISTED} more")
    lines.append(f"train on them: data=folder data.root={out}")
    console.tell("\n".join(lines))
    return 0
