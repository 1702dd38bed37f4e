"""Federated against central training at equal image passes on LFW, and DCTDP at three budgets in both modes.

    python experiments/federated_vs_central/run.py --lfw lfw112_jpeg.npz       # everything; resumes where it stopped
    python experiments/federated_vs_central/run.py --lfw lfw112_jpeg.npz --only central steps5
    python experiments/federated_vs_central/run.py --table                     # table and figure of results.jsonl

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

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
FOLDS, SEEDS, PASSES, SILOS, BATCH = (0, 1), (1, 2, 3), 14, 10, 16
COMMON = [
    "data=lfw", f"train.clients={SILOS}", f"train.batch_size={BATCH}", "tracking=none", "engine=inline",
    "evaluation.reference=false", "partition.max_images_per_identity=50",
]  # fmt: skip
UNPROTECTED = ["data.size=48", "protection=none"]
ARMS: dict[str, list[str]] = {
    "central": [*UNPROTECTED],
    "steps1": [*UNPROTECTED, "train.local.steps=1"],
    "steps5": [*UNPROTECTED],
    "steps10": [*UNPROTECTED, "train.local.steps=10"],
    "steps20": [*UNPROTECTED, "train.local.steps=20"],
    "epoch": [*UNPROTECTED, "train.local.epochs=1"],
    **{
        f"image {budget:g}": [
            "data.size=48", "protection=dctdp", f"protection.total_epsilon={budget:g}", "train.local.steps=10",
        ]
        for budget in (8.0, 1000.0, 10000.0)
    },
    **{
        f"coefficient {budget:g}": [
            "data.size=32", "protection=dctdp", "protection.mode=coefficient", f"protection.mean_epsilon={budget:g}",
            "protection.fit_steps=0", "train.local.steps=10",
        ]
        for budget in (0.5, 4.0, 32.0)
    },
    "none at 32 px": ["data.size=32", "protection=none", "train.local.steps=10"],
}  # fmt: skip


def steps_per_client(images: int) -> int:
    """Return the local steps of one silo that make `PASSES` passes over all images together."""
    return round(PASSES * images / SILOS / BATCH)


def federation_of(arm: str, fold: int, seed: int, lfw: str, scratch: str):
    """Return the federation of one cell and the number of images it trains on."""
    from fedveil.federation.federation import Federation

    words = [*COMMON, *ARMS[arm], f"data.root={lfw}", f"data.held_fold={fold}", f"seed={seed}"]
    words += [f"runs.root={scratch}/runs", f"vault.root={scratch}/vault"]
    loaded = Federation.of(words)
    images, local = len(loaded.split.train), loaded.settings.train.local
    rounds = PASSES if local.epochs else max(1, round(steps_per_client(images) / (local.steps or 1)))
    every = max(1, rounds // 14)
    return Federation.of([*words, f"train.rounds={rounds}", f"evaluation.every={every}"]), images


def central(federation, images: int) -> dict[str, object]:
    """Train the same recipe on all images in one place: momentum at the only optimiser there is."""
    import torch

    from fedveil import randomness
    from fedveil.evaluation import protocol
    from fedveil.federation import training

    settings, split, protection = federation.settings, federation.split, federation.protection
    backbone = federation.backbone()
    faces = split.train
    features = protection.features(protection.release(torch.from_numpy(faces.images()), {}, ()), {})
    labels = torch.unique(torch.from_numpy(faces.labels), return_inverse=True)[1]
    dimension = int(backbone(features[:1]).shape[1])
    centres = training.head_init(
        int(labels.max()) + 1, dimension, randomness.public_torch(settings.seed, "head", "central")
    )
    batch = settings.train.batch_size
    steps = round(PASSES * images / batch)
    indices = training.batch_indices(len(faces), batch, settings.seed, "batches", "central", steps=steps)
    batches = ((features[at], labels[at]) for at in map(torch.from_numpy, indices))
    training.local_sgd(
        backbone, centres, federation.head, batches, settings.train.lr,
        momentum=0.9, weight_decay=settings.train.weight_decay,
    )  # fmt: skip
    found = protocol.evaluate(backbone, protection, {}, split.evaluation, draws=1, seed=settings.seed, repeats=0)
    return {"accuracy": found.accuracy, "eer": found.eer, "rounds": [], "statements": [], "draw_sd": None}


def federated(federation) -> dict[str, object]:
    """Run the federation and return its numbers."""
    from fedveil.commands import simulate

    run_id = f"cell-{os.getpid()}-{time.time_ns()}"
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - a worker process has nothing to say
    result = simulate.simulate(federation, run_id, "quiet")
    curve = [[entry["round"], entry["accuracy"]] for entry in result["rounds"] if entry["accuracy"] is not None]
    final = result["final"]
    return {
        "accuracy": final["accuracy"], "eer": final["eer"], "draw_sd": final["draw_sd"], "rounds": curve,
        "statements": [[s["unit"], s["epsilon"], s["delta"], s["relation"]] for s in result["statements"]],
    }  # fmt: skip


def cell(arm: str, fold: int, seed: int, lfw: str) -> dict[str, object]:
    """Run one arm on one held fold with one seed."""
    import torch

    torch.set_num_threads(1)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fedveil-", dir=os.environ.get("FEDVEIL_SCRATCH")) as scratch:
        federation, images = federation_of(arm, fold, seed, lfw, scratch)
        found = central(federation, images) if arm.startswith("central") else federated(federation)
    return {"arm": arm, "fold": fold, "seed": seed, "images": images, "seconds": time.perf_counter() - begun, **found}


def planned(arm: str, fold: int, seed: int) -> bool:
    """Return whether a cell is part of the study: protected arms run on one held fold, the slowest once."""
    if arm.startswith("coefficient"):
        return fold == FOLDS[0] and seed == SEEDS[0]
    return fold == FOLDS[0] or not arm.startswith("image")


def results() -> list[dict]:
    """Return the finished cells."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table() -> str:
    """Return the Markdown table: mean over folds and seeds; the spread is the standard deviation over seeds."""
    import numpy as np

    lines = ["| arm | accuracy, % | sd over seeds | rounds | image-level epsilon (delta 0, replace-one) | cells |"]
    lines.append("|---|---|---|---|---|---|")
    done = results()
    for arm in ARMS:
        found = [entry for entry in done if entry["arm"] == arm]
        if not found:
            continue
        seeds = sorted({entry["seed"] for entry in found})
        by_seed = [np.mean([entry["accuracy"] for entry in found if entry["seed"] == seed]) for seed in seeds]
        spread = f"{100 * np.std(by_seed, ddof=1):.1f}" if len(by_seed) > 1 else "-"
        rounds = found[0]["rounds"][-1][0] if found[0]["rounds"] else "-"
        image = [s[1] for s in found[0]["statements"] if s[0] == "image"]
        epsilon = "-" if not image else "infinite" if image[0] is None else f"{image[0]:,.0f}"
        lines.append(f"| {arm} | {100 * np.mean(by_seed):.1f} | {spread} | {rounds} | {epsilon} | {len(found)} |")
    return "\n".join(lines)


def figure() -> None:
    """Draw accuracy against rounds, the communication, for each kind of local work."""
    import numpy as np
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = drawn.subplots()
    done = results()
    labels = {f"steps{count}": f"{count} local step" + "s" * (count > 1) for count in (1, 5, 10, 20)}
    labels["epoch"] = "1 local epoch"
    for arm, label in labels.items():
        curves = [np.array(entry["rounds"], dtype=float) for entry in done if entry["arm"] == arm]
        if curves:  # folds differ by a few images, so by a round or two
            grid = curves[0][:, 0]
            mean = np.mean([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in curves], axis=0)
            axes.plot(grid, 100 * mean, marker="o", ms=3, label=label)
    level = [entry["accuracy"] for entry in done if entry["arm"] == "central"]
    if level:
        axes.axhline(100 * float(np.mean(level)), color="0.4", ls="--", label="central, equal image passes")
    axes.set(xscale="log", xlabel="rounds", ylabel="verification accuracy, %", title="LFW, 10 silos, 14 image passes")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    drawn.savefig(HERE / "rounds.png", dpi=120)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lfw", help="LFW folder or packed .npz file")
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=list(ARMS), help="arms to run")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--table", action="store_true", help="only draw the table and the figure")
    chosen = parser.parse_args()
    if not chosen.table:
        if chosen.lfw is None:
            parser.error("--lfw is needed to run")
        have = {(entry["arm"], entry["fold"], entry["seed"]) for entry in results()}
        todo = [
            (arm, fold, seed)
            for arm in chosen.only for seed in SEEDS for fold in FOLDS
            if (arm, fold, seed) not in have and planned(arm, fold, seed)
        ]  # fmt: skip
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(chosen.workers, mp_context=context) as pool:
            jobs = {pool.submit(cell, *key, str(Path(chosen.lfw).resolve())): key for key in todo}
            for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                entry = job.result()
                with RESULTS.open("a") as stream:
                    stream.write(json.dumps(entry) + "\n")
                print(f"{number}/{len(todo)} {entry['arm']} fold {entry['fold']} seed {entry['seed']}: "
                      f"{100 * entry['accuracy']:.1f} % in {entry['seconds']:.0f} s", flush=True)
    print(table())
    figure()


if __name__ == "__main__":
    main()
