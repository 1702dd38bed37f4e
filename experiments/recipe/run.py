"""What each part of the training recipe brings on LFW, and federated against central training: three seeds.

    python experiments/recipe/run.py --lfw lfw112_jpeg.npz                       # 64 px; resumes where it stopped
    python experiments/recipe/run.py --lfw lfw112_jpeg.npz --size 32 --passes 8  # smaller: its own rows of the table
    python experiments/recipe/run.py --lfw lfw112_jpeg.npz --only base flip      # some arms
    python experiments/recipe/run.py --lfw lfw112_jpeg.npz --minutes 30          # begins no cell after that
    python experiments/recipe/run.py --lfw lfw112_jpeg.npz --model iresnet18 --size 112 --device cuda --precision bf16
    python experiments/recipe/run.py --table                                     # the tables of results.jsonl

`--lfw` is the usual folder (lfw/NAME/NAME_0001.jpg with pairs.txt and people.txt) or a packed .npz file. Neither Flower
nor MLflow is needed. `--passes fit` finds as many passes as fit into `--minutes`, for a machine that is there for long
enough once.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), *(str(ROOT / name) for name in ("platform", "clients", "strategies"))]  # or installed

from table import table  # noqa: E402

SEEDS, SILOS = (1, 2, 3), 10
LONGEST, SHARE = 40, 0.6  # of passes that `--passes fit` finds; of the time, as some arms take longer than the first
COMMON = [
    "data=lfw", "data.min_images=4", "data.max_images_per_identity=10", "tracking=none", "engine=inline",
    "evaluation.reference=false", "evaluation.bootstrap=0", "evaluation.far=[0.1,0.01]", "evaluation.every=1000000",
    "evaluation.draws=1",
]  # fmt: skip
MODELS = {
    "tiny_ir": ["model=tiny_ir", "train.batch_size=16"],
    "iresnet18": ["model=iresnet18", "train.batch_size=32", "train.local.steps=10"],  # 24 million numbers a round
}
CLEAN, NOISY = ["protection=none"], ["protection=dctdp", "protection.total_epsilon=1000"]
COSINE, FLIP = ["train.schedule.kind=cosine"], ["train.augment.flip=true"]
CENTRAL = "central"
ARMS: dict[str, list[str]] = {
    "base": CLEAN,
    "flip": [*CLEAN, *FLIP],
    CENTRAL: CLEAN,
    f"{CENTRAL}, flip": [*CLEAN, *FLIP],
    "cosine": [*CLEAN, *COSINE],
    "flip, cosine": [*CLEAN, *FLIP, *COSINE],
    "dctdp": NOISY,
    "dctdp, flip": [*NOISY, *FLIP],
    "dctdp, flip, cosine": [*NOISY, *FLIP, *COSINE],
    "steps": [*CLEAN, "train.schedule.kind=steps", "train.schedule.milestones=[0.42,0.75,0.92]"],
    "flip, crop": [*CLEAN, *FLIP, "train.augment.crop=0.1"],
    "flip, jitter": [*CLEAN, *FLIP, "train.augment.jitter=0.2"],
    "scaffold": [*CLEAN, "train.correction=scaffold"],
    "fedavg": [*CLEAN, "aggregation=fedavg"],
    "fedadam": [*CLEAN, "aggregation=fedadam"],
    "fedyogi": [*CLEAN, "aggregation=fedyogi"],
    "half the classes": [*CLEAN, "train.class_share=0.5"],
    "20 steps": [*CLEAN, "train.local.steps=20"],
    "20 steps, fedprox": [*CLEAN, "train.local.steps=20", "train.proximal=0.1"],
    "20 steps, scaffold": [*CLEAN, "train.local.steps=20", "train.correction=scaffold"],
    "cosine, warm-up": [*CLEAN, *COSINE, "train.schedule.warm_up=0.1"],
    "cosine, twice the rates": [*CLEAN, *COSINE, "train.lr=0.06", "train.head_lr=0.6"],
}
"""Every arm makes equal image passes; where nothing is said it is configs/base.yaml, 5 local steps a round. They run in
this order."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One arm with one seed."""

    arm: str
    seed: int
    size: int
    passes: int
    model: str

    def words(self, lfw: str, device: str, precision: str) -> list[str]:
        """Return the configuration."""
        here = [f"data.size={self.size}", f"data.root={lfw}", f"seed={self.seed}"]
        return [*COMMON, *MODELS[self.model], *ARMS[self.arm], *here, f"device={device}", f"precision={precision}"]


def base_of(arm: str) -> str:
    """Return the arm that an arm is compared with.

    >>> base_of("dctdp, flip"), base_of("20 steps, scaffold"), base_of("flip"), base_of("20 steps")
    ('dctdp', '20 steps', 'base', 'base')
    >>> base_of("central"), base_of("central, flip")
    ('base', 'flip')
    """
    first, _, rest = arm.partition(", ")
    if first == CENTRAL:
        return rest or "base"
    return first if first in ("dctdp", "20 steps") and first != arm else "base"


def finished(cell: Cell, lfw: str, device: str, precision: str) -> dict[str, Any]:
    """Train and evaluate one cell."""
    import cells

    alone = cell.arm.partition(", ")[0] == CENTRAL
    found = cells.trained(cell.words(lfw, device, precision), SILOS, cell.passes, alone=alone)
    return {**dataclasses.asdict(cell), "precision": precision, **found}


def timed(cell: Cell, lfw: str, device: str, precision: str) -> tuple[float, float]:
    """Return seconds of one cell beside its passes, and of one pass, while others are timed as well."""
    import cells

    return cells.seconds_of(cell.words(lfw, device, precision), SILOS)


def results(path: Path) -> list[dict[str, Any]]:
    """Return the finished cells of a file; the first ones were all of one model, on a processor."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [{"model": "tiny_ir", "device": "cpu", **json.loads(line)} for line in lines]


def cell_of(entry: dict[str, Any]) -> Cell:
    """Return which cell a result is of."""
    return Cell(*(entry[field.name] for field in dataclasses.fields(Cell)))


def fitted(
    pool: concurrent.futures.Executor, cells: list[Cell], how: tuple[str, ...], workers: int, until: float
) -> int:
    """Return how many passes let all cells end in time, by what the first one takes on all workers at once.

    Args:
        pool: of so many workers.
        cells: to be trained.
        how: LFW, device and precision.
        workers: processes.
        until: when they have to be done, of `time.monotonic`.
    """
    found = [job.result() for job in [pool.submit(timed, cells[0], *how) for _ in range(workers)]]
    beside, one = (sum(values) / workers for values in zip(*found, strict=True))
    each = (until - time.monotonic()) / max(1.0, len(cells) / workers)
    passes = max(1, min(LONGEST, int((SHARE * each - beside) / one)))
    print(f"{beside:.1f} s a cell and {one:.2f} s a pass, {workers} at once: {passes} passes", flush=True)
    return passes


def run(chosen: argparse.Namespace) -> int:
    """Run cells, append every finished one, begin none after `--minutes`; return how many failed."""
    until = time.monotonic() + 60 * chosen.minutes
    how = str(Path(chosen.lfw).resolve()), chosen.device, chosen.precision
    wanted = [Cell(arm, seed, chosen.size, 1, chosen.model) for seed in SEEDS for arm in chosen.only]
    failed, jobs = 0, {}
    with concurrent.futures.ProcessPoolExecutor(chosen.workers, multiprocessing.get_context("spawn")) as pool:
        passes = chosen.passes
        if passes is None:
            passes = fitted(pool, wanted, how, chosen.workers, until)
        have = {cell_of(entry) for entry in results(chosen.out)}
        waiting = [cell for one in wanted if (cell := dataclasses.replace(one, passes=passes)) not in have]
        count = len(waiting)
        while waiting or jobs:
            while waiting and len(jobs) < chosen.workers and time.monotonic() < until:
                cell = waiting.pop(0)
                jobs[pool.submit(finished, cell, *how)] = cell
            if not jobs:
                break
            for job in concurrent.futures.wait(jobs, return_when=concurrent.futures.FIRST_COMPLETED).done:
                cell = jobs.pop(job)
                try:
                    entry = job.result()
                except Exception as error:  # one arm that fails must not cost the others
                    failed += 1
                    print(f"{cell}: {type(error).__name__}: {error}", flush=True)
                    continue
                with chosen.out.open("a") as stream:
                    stream.write(json.dumps(entry) + "\n")
                said = f"{100 * entry['accuracy']:.1f} % in {entry['seconds']:.0f} s"
                print(f"{count - len(waiting) - len(jobs)}/{count} {cell}: {said}", flush=True)
    return failed


def main() -> int:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lfw", help="LFW folder or packed .npz file")
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=list(ARMS), help="arms to run, in this order")
    parser.add_argument("--model", default="tiny_ir", choices=list(MODELS), help="backbone (default tiny_ir)")
    parser.add_argument("--size", type=int, default=64, help="pixels (default 64)")
    parser.add_argument(
        "--passes", type=lambda word: None if word == "fit" else int(word), default=16,
        help="passes over the images (default 16), or fit",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of networks in training")
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl", help="file of results")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    chosen = parser.parse_args()
    failed = 0
    if not chosen.table:
        if chosen.lfw is None:
            parser.error("--lfw is needed to run")
        if chosen.passes is None and chosen.minutes == float("inf"):
            parser.error("--passes fit needs --minutes")
        failed = run(chosen)
    print(table(results(chosen.out), list(ARMS), base_of))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
