"""What private training inside clients costs and what each part of its recipe brings, on LFW: three seeds.

    python experiments/private_training/run.py --lfw lfw112_jpeg.npz             # resumes where it stopped
    python experiments/private_training/run.py --lfw lfw112_jpeg.npz --only "image 8" "identity 8"
    python experiments/private_training/run.py --lfw lfw112_jpeg.npz --minutes 6 --search 2 --device cuda --workers 16
    python experiments/private_training/run.py --table                           # the tables of results.jsonl

`--lfw` is the usual folder (lfw/NAME/NAME_0001.jpg with pairs.txt and people.txt) or a packed .npz file. Neither Flower
nor MLflow is needed. `--search` first chooses a recipe on LFW's development split for so many minutes; without it, and
without an earlier search's file, the recipe is that of configs/study/private.yaml.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "recipe"), *(str(ROOT / n) for n in ("platform", "clients", "strategies"))]

import search  # noqa: E402
from arms import ARMS, UNITS, Arm, words  # noqa: E402
from report import report  # noqa: E402

SEEDS, DRAWS, SHARE = (1, 2, 3), 400, 0.7
AT_ONCE = "1024"  # images that pass a network together on a GPU
SEARCH = "search"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        chosen: what a search chose for the unit, as sorted (setting, value) pairs; empty for the recipe as it stands.
    """

    arm: str
    unit: str
    seed: int
    chosen: tuple[tuple[str, str], ...] = ()

    def words(self, lfw: str, device: str) -> list[str]:
        """Return the configuration."""
        more = {"data.root": lfw, "seed": str(self.seed), "device": device}
        if device != "cpu":
            more["device_batch"] = AT_ONCE
        if self.arm == SEARCH:
            return words(Arm(search.DEVELOPMENT, self.unit, "8"), dict(self.chosen), more)
        return words(ARMS[self.arm], dict(self.chosen), more)


def pairs(chosen: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Return settings as sorted pairs."""
    return tuple(sorted((chosen or {}).items()))


def finished(cell: Cell, lfw: str, device: str) -> dict[str, Any]:
    """Train and evaluate one cell."""
    import private_cells

    found = private_cells.trained(cell.words(lfw, device))
    return {"arm": cell.arm, "unit": cell.unit, "seed": cell.seed, "chosen": dict(cell.chosen), **found}


def results(path: Path) -> list[dict[str, Any]]:
    """Return the finished cells of a file; a line that an interruption cut is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}: a line is cut and left out: {line[:40]}", file=sys.stderr)
    return found


def cell_of(entry: dict[str, Any]) -> Cell:
    """Return which cell a result is of."""
    return Cell(entry["arm"], entry["unit"], entry["seed"], pairs(entry["chosen"]))


def run(
    submit: Callable[[Cell], concurrent.futures.Future[dict[str, Any]]], cells: Iterable[Cell], out: Path,
    workers: int, until: float,
) -> int:  # fmt: skip
    """Run the cells that are missing in `out`, begin none after `until`; return how many failed."""
    have = {cell_of(entry) for entry in results(out)}
    waiting = iter([cell for cell in cells if cell not in have])
    failed, jobs = 0, dict[concurrent.futures.Future[dict[str, Any]], Cell]()
    while True:
        while len(jobs) < workers and time.monotonic() < until and (cell := next(waiting, None)) is not None:
            jobs[submit(cell)] = cell
        if not jobs:
            return failed
        for job in concurrent.futures.wait(jobs, return_when=concurrent.futures.FIRST_COMPLETED).done:
            cell = jobs.pop(job)
            try:
                entry = job.result()
            except Exception as error:  # one arm that fails must not cost the others
                failed += 1
                print(f"{cell}: {type(error).__name__}: {error}", flush=True)
                continue
            with out.open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
            said = f"accuracy {100 * entry['accuracy']:.1f}, AUC {100 * entry['auc']:.1f}, was "
            print(f"{cell.arm} {cell.unit} {cell.seed}: {said}{100 * entry['start_auc']:.1f}, {entry['seconds']:.0f} s",
                  flush=True)  # fmt: skip


def draws() -> Iterator[Cell]:
    """Yield the cells of a search: every draw for images and for people, with the first seed."""
    for number, unit in itertools.product(range(DRAWS), UNITS):
        yield Cell(SEARCH, unit, search.SEEDS[0], pairs(search.drawn(number)))


def finals(done: Sequence[dict[str, Any]]) -> Iterator[Cell]:
    """Yield the cells that decide a search: the best draws with the other seeds."""
    for seed, unit in itertools.product(search.SEEDS[1:], UNITS):
        for chosen in search.finalists(done, unit):
            yield Cell(SEARCH, unit, seed, pairs(chosen))


def cells(only: Sequence[str], chosen: Mapping[str, tuple[tuple[str, str], ...]]) -> Iterator[Cell]:
    """Yield the table's cells, arm after arm."""
    for arm, seed in itertools.product(only, SEEDS):
        yield Cell(arm, ARMS[arm].unit, seed, chosen.get(ARMS[arm].unit, ()))


def measured(wanted: argparse.Namespace) -> int:
    """Search if asked to, then run the table's cells; return how many failed."""
    begun = time.monotonic()
    how, context = (str(Path(wanted.lfw).resolve()), wanted.device), multiprocessing.get_context("spawn")
    failed = 0
    with concurrent.futures.ProcessPoolExecutor(wanted.workers, context) as pool:

        def done(which: Iterable[Cell], out: Path, until: float) -> int:
            return run(lambda cell: pool.submit(finished, cell, *how), which, out, wanted.workers, until)

        if wanted.search:
            failed += done(draws(), wanted.searched, begun + 60 * wanted.search * SHARE)
            failed += done(list(finals(results(wanted.searched))), wanted.searched, begun + 60 * wanted.search)
        found = {unit: pairs(search.best(results(wanted.searched), unit)) for unit in UNITS}
        for unit, settings in found.items():
            print(f"recipe, {unit}: {dict(settings) or 'configs/study/private.yaml'}", flush=True)
        return failed + done(cells(wanted.only, found), wanted.out, begun + 60 * wanted.minutes)


def main() -> int:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lfw", help="LFW folder or packed .npz file")
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=list(ARMS), help="arms to run, in this order")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda")
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl", help="file of results")
    parser.add_argument("--searched", type=Path, default=HERE / "search.jsonl", help="file of a search")
    parser.add_argument("--search", type=float, default=0.0, help="minutes of a search before the table (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    wanted = parser.parse_args()
    failed = 0
    if not wanted.table:
        if wanted.lfw is None:
            parser.error("--lfw is needed to run")
        failed = measured(wanted)
    print(report(results(wanted.out), ARMS, HERE / "audited.json"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
