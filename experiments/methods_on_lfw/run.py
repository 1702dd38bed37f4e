"""Every published method of the frequency family on LFW under one recipe: accuracy, bytes, time, parameters.

    python experiments/methods_on_lfw/run.py --lfw lfw112_jpeg.npz                # everything; resumes where it stopped
    python experiments/methods_on_lfw/run.py --lfw lfw112_jpeg.npz --only none partialface
    python experiments/methods_on_lfw/run.py --table                              # table and figure of results.jsonl
    python experiments/methods_on_lfw/run.py --lfw lfw112_jpeg.npz --full --out full   # IResNet-50, 112 px, full length

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
FOLDS, SEEDS, SILOS, BATCH, STEPS = (0, 1), (1, 2, 3), 10, 16, 10
RECIPE = [
    "data=lfw", "data.min_images=4", "data.max_images_per_identity=10", f"train.clients={SILOS}",
    f"train.batch_size={BATCH}", f"train.local.steps={STEPS}", "tracking=none", "engine=inline",
    "evaluation.reference=false", "evaluation.bootstrap=0", "evaluation.far=[0.1,0.01]",
]  # fmt: skip
SMALL = {"words": ["data.size=64"], "passes": 8, "draws": 3}
FULL = {
    "words": ["data.size=112", "model=iresnet50", "protection.client_width=1.0", "protection.generator_width=64",
              "protection.width=64", "protection.shadow_width=64"],
    "passes": 60, "draws": 5,
}  # fmt: skip
ARMS: dict[str, list[str]] = {
    "none": ["protection=none"],
    "dct": ["protection=dct"],
    "dctdp": ["protection=dctdp", "protection.total_epsilon=1000"],
    "duetface": ["protection=duetface"],
    "partialface": ["protection=partialface"],
    "minusface": ["protection=minusface"],
    "advface": ["protection=advface"],
}
FITTED = ("dctdp", "duetface", "minusface", "advface")  # training changes the values of their state, not its cost
NAMES = {
    "none": "none: the image", "dct": "all 192 channels", "dctdp": "DCTDP, image epsilon 1,000", "duetface": "DuetFace",
    "partialface": "PartialFace", "minusface": "MinusFace", "advface": "AdvFace, protected pairs",
}  # fmt: skip


def settings_of(arm: str, fold: int, seed: int, lfw: str, scratch: str, recipe: dict):
    """Return the configuration of one cell and the number of training images.

    Every recogniser makes the same image passes. AdvFace trains its recogniser in its phase too, so that phase's rounds
    are taken from the main ones; DuetFace's client net is another network, whose rounds come on top.
    """
    import dataclasses

    from fedveil import config, federation, plugins, schedule

    fields = {field.name for field in dataclasses.fields(plugins.method("protection", arm))}
    words = [word for word in recipe["words"] if not word.startswith("protection.") or _key(word) in fields]
    words = [*RECIPE, *words, *ARMS[arm], f"data.root={lfw}", f"data.held_fold={fold}", f"seed={seed}"]
    words += [f"evaluation.draws={recipe['draws']}", f"runs.root={scratch}/runs", f"vault.root={scratch}/vault"]
    loaded = config.load(words)
    images = len(federation.split(loaded).train)
    rounds = round(recipe["passes"] * images / SILOS / BATCH / STEPS)
    main = rounds - (schedule.stages(loaded)[0].last if arm == "advface" else 0)
    return config.load([*words, f"train.rounds={main}", f"evaluation.every={max(1, main // 8)}"]), images


def _key(word: str) -> str:
    return word.partition("=")[0].removeprefix("protection.")


def cell(arm: str, fold: int, seed: int, lfw: str, recipe: dict) -> dict[str, object]:
    """Run one method on one held fold with one seed."""
    import torch

    from fedveil import simulate

    torch.set_num_threads(1)
    begun, spent = time.perf_counter(), time.process_time()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - a worker process has nothing to say
    with tempfile.TemporaryDirectory(prefix="fedveil-", dir=os.environ.get("FEDVEIL_SCRATCH")) as scratch:
        settings, images = settings_of(arm, fold, seed, lfw, scratch, recipe)
        result = simulate.simulate(settings, "cell", "quiet")
        extra = clean_gallery(settings, scratch) if arm == "advface" else None
    final = result["final"]
    return {
        "arm": arm, "fold": fold, "seed": seed, "images": images, "rounds": len(result["rounds"]),
        "accuracy": final["accuracy"], "draw_sd": final["draw_sd"], "eer": final["eer"], "tar": final["tar"],
        "adv/clean": extra, "seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - spent,
    }  # fmt: skip


def clean_gallery(settings, scratch: str) -> float:
    """Return the accuracy of protected against clean features (adv/clean) of the finished run's model."""
    import torch

    from fedveil import config, federation, runs
    from fedveil.evaluation import protocol

    arrays, _ = runs.unpack(Path(scratch) / "runs" / "cell" / "checkpoint.npz")
    split, protection = federation.split(settings), config.build(settings, "protection")
    backbone = federation.backbone(settings, protection, split.train.size)
    federation.set_tensors(backbone, {k[7:]: v for k, v in arrays.items() if k.startswith("tensor/")})
    state = {k[6:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("state/")}
    pairs = split.evaluation
    found = protocol.evaluate(
        backbone, protection, state, pairs, draws=1, seed=settings.seed, gallery="clean", repeats=0
    )
    return found.accuracy


def costs(out: Path) -> dict[str, dict[str, float]]:
    """Return payload, parameters and seconds per image of every method, measured once, alone, and kept."""
    import dataclasses

    import torch

    from fedveil import config, methods

    path = out / "costs.json"
    if not path.exists():
        torch.set_num_threads(1)
        words = {arm: [*ARMS[arm], *(["protection.fit_steps=1"] if arm in FITTED else [])] for arm in ARMS}
        made = {arm: config.build(config.load(words[arm]), "protection") for arm in ARMS}
        found = {arm: dataclasses.asdict(methods.measure(protection, 64)) for arm, protection in made.items()}
        path.write_text(json.dumps(found, indent=1) + "\n")
    kept: dict[str, dict[str, float]] = json.loads(path.read_text())
    return kept


def results(out: Path) -> list[dict]:
    """Return the finished cells."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(out: Path) -> str:
    """Return the Markdown table: mean over folds and seeds; spreads are standard deviations and named."""
    import numpy as np

    done, cost = results(out), costs(out)
    lines = [
        "| method | accuracy, common cells, % | accuracy, all its cells, % | sd over seeds | sd over draws "
        "| EER, % | TAR at FAR 0.01, % | bytes an image | ms an image | extra parameters | CPU s a cell | cells |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    # An unfinished study has other folds and seeds for some methods: only what all of them have is comparable.
    have = [{(entry["fold"], entry["seed"]) for entry in done if entry["arm"] == arm} for arm in ARMS]
    common = set.intersection(*(cells for cells in have if cells)) if done else set()
    for arm in ARMS:
        found = [entry for entry in done if entry["arm"] == arm]
        if not found:
            continue
        rows = [(NAMES[arm], "accuracy")]
        if arm == "advface":
            rows.append(("AdvFace, protected and clean", "adv/clean"))
        for name, key in rows:
            seeds = sorted({entry["seed"] for entry in found})
            means = [np.mean([entry[key] for entry in found if entry["seed"] == seed]) for seed in seeds]
            spread = f"{100 * np.std(means, ddof=1):.1f}" if len(means) > 1 else "-"
            draws = [entry["draw_sd"] for entry in found if entry["draw_sd"] is not None]
            drawn = f"{100 * np.mean(draws):.1f}" if draws and key == "accuracy" else "-"
            tars = [entry["tar"]["0.01"] for entry in found if isinstance(entry["tar"].get("0.01"), float)]
            rate = f"{100 * np.mean(tars):.1f}" if tars and key == "accuracy" else "-"
            eer = f"{100 * np.mean([entry['eer'] for entry in found]):.1f}" if key == "accuracy" else "-"
            one = cost[arm]
            same = [entry[key] for entry in found if (entry["fold"], entry["seed"]) in common]
            lines.append(
                f"| {name} | {100 * np.mean(same):.1f} | {100 * np.mean(means):.1f} | {spread} | {drawn} | {eer} "
                f"| {rate} | {one['payload']:,.0f} "
                f"| {1000 * one['seconds']:.2f} | {one['parameters']:,.0f} "
                f"| {np.mean([entry['cpu_seconds'] for entry in found]):.0f} | {len(found)} |"
            )
    return "\n".join(lines)


def figure(out: Path) -> None:
    """Draw accuracy against the bytes that leave per image, a point per method with its spread over folds and seeds."""
    import numpy as np
    from matplotlib.figure import Figure

    cost, done = costs(out), results(out)
    drawn = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = drawn.subplots()
    for arm in ARMS:
        found = [100 * entry["accuracy"] for entry in done if entry["arm"] == arm]
        if found:
            at = cost[arm]["payload"] / 1024
            spread = np.std(found, ddof=1) if len(found) > 1 else 0.0
            axes.errorbar(at, np.mean(found), yerr=spread, fmt="o", capsize=3)
            axes.annotate(arm, (at, np.mean(found)), xytext=(6, 4), textcoords="offset points")
    axes.axhline(50, color="0.5", ls=":", label="guessing")
    axes.set(xscale="log", xlabel="KiB that leave per image", ylabel="verification accuracy, %")
    axes.set_title("LFW, 64 px, ten silos; bars: 1 sd over folds and seeds", fontsize=10)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    drawn.savefig(out / "accuracy.png", dpi=120)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lfw", help="LFW folder or packed .npz file")
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=list(ARMS), help="methods to run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--full", action="store_true", help="112 px, IResNet-50, published widths, 60 passes")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.jsonl (this one)")
    parser.add_argument("--table", action="store_true", help="only draw the table and the figure")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        if chosen.lfw is None:
            parser.error("--lfw is needed to run")
        have = {(entry["arm"], entry["fold"], entry["seed"]) for entry in results(chosen.out)}
        todo = [
            (arm, fold, seed)
            for seed in SEEDS for fold in FOLDS for arm in chosen.only if (arm, fold, seed) not in have
        ]  # fmt: skip
        context = multiprocessing.get_context("spawn")
        recipe = FULL if chosen.full else SMALL
        with concurrent.futures.ProcessPoolExecutor(chosen.workers, mp_context=context) as pool:
            jobs = [pool.submit(cell, *key, str(Path(chosen.lfw).resolve()), recipe) for key in todo]
            for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                entry = job.result()
                with (chosen.out / "results.jsonl").open("a") as stream:
                    stream.write(json.dumps(entry) + "\n")
                print(f"{number}/{len(todo)} {entry['arm']} fold {entry['fold']} seed {entry['seed']}: "
                      f"{100 * entry['accuracy']:.1f} % in {entry['cpu_seconds']:.0f} CPU s", flush=True)
    print(table(chosen.out))
    figure(chosen.out)


if __name__ == "__main__":
    main()
