"""Write one page of accuracy, budgets and what attacks recover.

One HTML file that works offline, the same as PNG and as CSV.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from fedveil import config, console
from fedveil.commands.report import content, gathered, page, panels, plots, rows, tables, words
from fedveil.federation.federation import Federation
from fedveil.pictures import tradeoff
from fedveil.storage import disk
from fedveil.tracking import mirror

EXAMPLES = """examples:
  fedveil report sweep-1a2b3c4d                     # a sweep, by its id
  fedveil report 20260102-030405-dctdp-1f2e3d       # one run
  fedveil report sweep-1a2b3c4d --out page/         # elsewhere
"""

READS = ("runs", "tracking")
TRACKS = True


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("target", metavar="SWEEP_OR_RUN", help="id of a sweep or of a finished run")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. runs.root=elsewhere")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="write here instead of runs/SWEEP_OR_RUN/report/")


def run(chosen: argparse.Namespace) -> int:
    """Write the page and what belongs to it, and say the result."""
    root = Path(config.load(chosen.words).runs.root)
    found = gathered.gather(root, chosen.target)
    folder = found.folder / "report" if chosen.out is None else chosen.out
    files = write(found, folder)
    for line in found.left_out:
        console.complain(line)
    console.tell("\n".join(["", *words.headline(rows.rows(found)), ""]))
    size = files[0].stat().st_size / 1e6
    console.tell("\n".join([f"wrote {files[0]} ({size:.2g} MB, opens without a network)",
                            *(f"wrote {path}" for path in files[1:])]))  # fmt: skip
    if chosen.out is None:
        _track(found, chosen.words, root, files)
    return 0


def _track(found: gathered.Gathered, said: Sequence[str], root: Path, files: Sequence[Path]) -> None:
    """Tell MLflow of the files where it was told of what they are about; of a sweep its first run says that."""
    first = found.finished[0].settings
    assert first is not None  # it has finished
    settings = config.load(said, on=first)
    settings = dataclasses.replace(settings, runs=dataclasses.replace(settings.runs, root=str(root)))
    rounds = Federation(settings).total_rounds if found.words is None else len(found.runs)
    failed = any(seen.state == "failed" for seen in found.runs)
    mirror.report(settings, found.target, files, found.hides_times, rounds, "FAILED" if failed else "FINISHED")
    if found.hides_times:
        for path in [*files, files[0].parent]:
            began = (found.folder / "config.json" if found.words is None else found.finished[0].run.config).stat()
            os.utime(path, ns=(began.st_mtime_ns, began.st_mtime_ns))


def write(found: gathered.Gathered, folder: Path) -> list[Path]:
    """Write report.html, methods.csv, attacks.csv, and frontier.png where there is something to draw; return them."""
    listed = rows.rows(found)
    drawn = panels.panels(listed)
    static = tradeoff.tradeoff(folder / "frontier.png", drawn) if drawn else None
    told = content.content(found, listed, drawn, page.data_uri(static) if static else None)
    written = {
        "report.html": page.render(told, plots.figures(drawn, listed)).encode(),
        "methods.csv": tables.methods(listed),
        "attacks.csv": tables.attacks(listed, found.hides_times),
    }
    for name, data in written.items():
        disk.write_atomic(folder / name, data, durable=False)
    if static is None:
        (folder / "frontier.png").unlink(missing_ok=True)  # of an earlier page
    return [folder / "report.html", *([static] if static else []), folder / "methods.csv", folder / "attacks.csv"]
