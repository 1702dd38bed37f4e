"""What each part of the training recipe brings on LFW: one change at a time, three seeds, with and without flips.

    python experiments/recipe/run.py --lfw lfw112_jpeg.npz                       # 64 px; resumes where it stopped
    python experiments/recipe/run.py --lfw lfw112_jpeg.npz --size 32 --passes 8  # smaller: its own rows of the table
    python experiments/recipe/run.py --lfw lfw112_jpeg.npz --only base flip      # some arms
    python experiments/recipe/run.py --lfw lfw112_jpeg.npz --minutes 30          # begins no cell after that
    python experiments/recipe/run.py --table                                     # the tables of results.jsonl

`--lfw` is the usual folder (lfw/NAME/NAME_0001.jpg with pairs.txt and people.txt) or a packed .npz file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
SEEDS, SILOS, BATCH = (1, 2, 3), 10, 16
COMMON = [
    "data=lfw", "data.min_images=4", "data.max_images_per_identity=10", f"train.clients={SILOS}",
    f"train.batch_size={BATCH}", "tracking=none", "engine=inline", "evaluation.reference=false",
    "evaluation.bootstrap=0", "evaluation.far=[0.1,0.01]", "evaluation.every=1000000", "evaluation.draws=1",
]  # fmt: skip
CLEAN, NOISY = ["protection=none"], ["protection=dctdp", "protection.total_epsilon=1000"]
COSINE, FLIP = ["train.schedule.kind=cosine"], ["train.augment.flip=true"]
ARMS: dict[str, list[str]] = {
    "base": CLEAN,
    "cosine": [*CLEAN, *COSINE],
    "steps": [*CLEAN, "train.schedule.kind=steps", "train.schedule.milestones=[0.42,0.75,0.92]"],
    "cosine, warm-up": [*CLEAN, *COSINE, "train.schedule.warm_up=0.1"],
    "cosine, twice the rates": [*CLEAN, *COSINE, "train.lr=0.06", "train.head_lr=0.6"],
    "flip": [*CLEAN, *FLIP],
    "flip, cosine": [*CLEAN, *FLIP, *COSINE],
    "flip, crop": [*CLEAN, *FLIP, "train.augment.crop=0.1"],
    "flip, jitter": [*CLEAN, *FLIP, "train.augment.jitter=0.2"],
    "half the classes": [*CLEAN, "train.class_share=0.5"],
    "fedavg": [*CLEAN, "aggregation=fedavg"],
    "fedadam": [*CLEAN, "aggregation=fedadam"],
    "fedyogi": [*CLEAN, "aggregation=fedyogi"],
    "scaffold": [*CLEAN, "train.correction=scaffold"],
    "20 steps": [*CLEAN, "train.local.steps=20"],
    "20 steps, fedprox": [*CLEAN, "train.local.steps=20", "train.proximal=0.1"],
    "20 steps, scaffold": [*CLEAN, "train.local.steps=20", "train.correction=scaffold"],
    "dctdp": NOISY,
    "dctdp, flip": [*NOISY, *FLIP],
    "dctdp, flip, cosine": [*NOISY, *FLIP, *COSINE],
}
"""Every arm makes equal image passes; where nothing is said it is configs/base.yaml, 5 local steps a round."""
Key = tuple[str, int, int, int]  # arm, seed, size, passes


def base_of(arm: str) -> str:
    """Return the arm that an arm is compared with.

    >>> base_of("dctdp, flip"), base_of("20 steps, scaffold"), base_of("flip"), base_of("20 steps")
    ('dctdp', '20 steps', 'base', 'base')
    """
    first = arm.partition(",")[0]
    return first if first in ("dctdp", "20 steps") and first != arm else "base"


def federation_of(key: Key, lfw: str, scratch: str) -> tuple[Any, int]:
    """Return the federation of one cell, and the number of images it trains on."""
    from fedveil.federation.federation import Federation

    arm, seed, size, passes = key
    words = [*COMMON, *ARMS[arm], f"data.size={size}", f"data.root={lfw}", f"seed={seed}"]
    words += [f"runs.root={scratch}/runs", f"vault.root={scratch}/vault"]
    loaded = Federation.of(words)
    images, steps = len(loaded.split.train), loaded.settings.train.local.steps or 1
    return Federation.of([*words, f"train.rounds={max(1, round(passes * images / SILOS / BATCH / steps))}"]), images


def cell(key: Key, lfw: str) -> dict[str, object]:
    """Train one arm with one seed and evaluate its model without and with flips, where the protection has them."""
    import torch

    from fedveil.commands import simulate

    torch.set_num_threads(1)
    begun, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="fedveil-", dir=os.environ.get("FEDVEIL_SCRATCH")) as scratch:
        federation, images = federation_of(key, lfw, scratch)
        shown, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - a worker process has nothing to say
        try:
            result = simulate.simulate(federation, "cell", "quiet")
        finally:
            sys.stdout = shown
        flipped = evaluated(federation, Path(scratch))
    arm, seed, size, passes = key
    return {
        "arm": arm, "seed": seed, "size": size, "passes": passes, "images": images, "rounds": len(result["rounds"]),
        **{name: result["final"][name] for name in ("accuracy", "auc", "eer")},
        **{f"flip_{name}": value for name, value in flipped.items()},
        "seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - spent,
    }  # fmt: skip


def evaluated(federation: Any, scratch: Path) -> dict[str, float]:
    """Return what the finished run's model finds with flips."""
    import torch

    from fedveil import runs
    from fedveil.evaluation import protocol
    from fedveil.federation.tensors import set_tensors

    arrays, _ = runs.unpack(scratch / "runs" / "cell" / "checkpoint.npz")
    backbone = federation.backbone()
    set_tensors(backbone, {name[7:]: value for name, value in arrays.items() if name.startswith("tensor/")})
    state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("state/")}
    found = protocol.evaluate(
        backbone, federation.protection, state, federation.split.evaluation, draws=1, seed=federation.settings.seed,
        fars=(0.1,), repeats=0, flip=True,
    )  # fmt: skip
    return {"accuracy": found.accuracy, "auc": found.auc, "eer": found.eer}


def results() -> list[dict[str, Any]]:
    """Return the finished cells."""
    path = HERE / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key_of(entry: dict[str, Any]) -> Key:
    """Return which cell a result is of."""
    return entry["arm"], entry["seed"], entry["size"], entry["passes"]


def paired(entries: list[dict[str, Any]], bases: list[dict[str, Any]], name: str) -> str:
    """Return the mean difference on equal seeds with its standard error over seeds, in points.

    >>> one = [{"seed": seed, "auc": value} for seed, value in ((1, 0.82), (2, 0.84), (3, 0.86))]
    >>> paired(one, [{**entry, "auc": 0.8} for entry in one], "auc"), paired(one[:1], one[1:], "auc")
    ('+4.0 (1.2)', '-')
    """
    import numpy as np

    before = {entry["seed"]: entry[name] for entry in bases}
    found = [100 * (entry[name] - before[entry["seed"]]) for entry in entries if entry["seed"] in before]
    if not found:
        return "-"
    error = f"{np.std(found, ddof=1) / np.sqrt(len(found)):.1f}" if len(found) > 1 else "-"
    return f"{np.mean(found):+.1f} ({error})"


def table(done: list[dict[str, Any]]) -> str:
    """Return a Markdown table per size and number of passes."""
    import numpy as np

    parts = []
    for size, passes in sorted({(entry["size"], entry["passes"]) for entry in done}):
        here = [entry for entry in done if (entry["size"], entry["passes"]) == (size, passes)]
        lines = [
            f"{size} px, {passes} passes:", "",
            "| arm | compared with | accuracy, % | AUC, % | accuracy against it, points (s.e.) | AUC against it | "
            "flips at evaluation: accuracy, AUC | CPU s a cell | seeds |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for arm in ARMS:
            cells = [entry for entry in here if entry["arm"] == arm]
            if not cells:
                continue
            against = [entry for entry in here if entry["arm"] == base_of(arm)] if arm != base_of(arm) else []
            mean = {name: 100 * np.mean([entry[name] for entry in cells]) for name in ("accuracy", "auc")}
            flips = ", ".join(
                paired([{**entry, name: entry[f"flip_{name}"]} for entry in cells], cells, name)
                for name in ("accuracy", "auc")
            )
            lines.append(
                f"| {arm} | {base_of(arm) if against else '-'} | {mean['accuracy']:.1f} | {mean['auc']:.1f} | "
                f"{paired(cells, against, 'accuracy')} | {paired(cells, against, 'auc')} | {flips} | "
                f"{np.mean([entry['cpu_seconds'] for entry in cells]):.0f} | {len(cells)} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def run(todo: list[Key], lfw: str, workers: int, minutes: float) -> None:
    """Run cells, each in a process of its own, and append every finished one; none begins after `minutes`."""
    until = time.monotonic() + 60 * minutes
    context = multiprocessing.get_context("spawn")
    waiting, jobs, count = list(todo), {}, 0
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        while waiting or jobs:
            while waiting and len(jobs) < workers and time.monotonic() < until:
                key = waiting.pop(0)
                jobs[pool.submit(cell, key, lfw)] = key
            if not jobs:
                break
            for job in concurrent.futures.wait(jobs, return_when=concurrent.futures.FIRST_COMPLETED).done:
                del jobs[job]
                entry = job.result()
                with (HERE / "results.jsonl").open("a") as stream:
                    stream.write(json.dumps(entry) + "\n")
                count += 1
                said = f"{100 * entry['accuracy']:.1f} % in {entry['seconds']:.0f} s"
                print(f"{count}/{len(todo)} {key_of(entry)}: {said}", flush=True)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lfw", help="LFW folder or packed .npz file")
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=list(ARMS), help="arms to run")
    parser.add_argument("--size", type=int, default=64, help="pixels (default 64)")
    parser.add_argument("--passes", type=int, default=16, help="passes over the images (default 16)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    chosen = parser.parse_args()
    if not chosen.table:
        if chosen.lfw is None:
            parser.error("--lfw is needed to run")
        have = {key_of(entry) for entry in results()}
        keys = [(arm, seed, chosen.size, chosen.passes) for seed in SEEDS for arm in chosen.only]
        todo = [key for key in keys if key not in have]
        run(todo, str(Path(chosen.lfw).resolve()), chosen.workers, chosen.minutes)
    print(table(results()))


if __name__ == "__main__":
    main()
