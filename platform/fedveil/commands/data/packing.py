"""`fedveil data pack`: one file of a data set, for `data=packed`."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedveil import checks, config, console
from fedveil.data import packing

OPTIONS = ("out", "quality")
_LISTED = 10


def run(chosen: argparse.Namespace) -> int:
    """Pack everybody of a source, and say what was done."""
    settings = config.load(chosen.words)
    source = config.build(settings, "data")
    if not hasattr(source, "whole"):
        raise checks.UserError(
            f"data={settings.data.name} is a benchmark with its own lists, which a packed file would lose; pack "
            "data=folder of its pictures."
        )
    out = chosen.out or Path("faces.npz")
    place = source.place(settings.seed)
    origin = {"source": settings.data.name, "place": Path(place).name if settings.data.name != "procedural" else place}
    bar = console.Console()
    done = packing.pack(
        source.whole(settings.seed), out, origin, chosen.quality or 95,
        lambda ready, total: bar.progress(ready, total, "packing"),
    )  # fmt: skip
    lines = [
        f"{out}: {done.pictures} pictures of {done.people} people, {out.stat().st_size / 1e6:.1f} MB",
        f"{done.copied} JPEGs copied as they were, the others encoded at quality {chosen.quality or 95}",
        *(f"left out or without a picture: {problem}" for problem in done.problems[:_LISTED]),
    ]
    if len(done.problems) > _LISTED:
        lines.append(f"and {len(done.problems) - _LISTED} more")
    size = settings.data.settings["size"]
    lines.append(f"train on it: data=packed data.path={out} data.size={size}")
    console.tell("\n".join(lines))
    return 0
