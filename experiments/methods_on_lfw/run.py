"""Every published method of the frequency family on LFW under one recipe: accuracy, bytes, time, parameters.

    python experiments/methods_on_lfw/run.py --lfw lfw112_jpeg.npz                # everything; resumes where it stopped
    python experiments/methods_on_lfw/run.py --lfw lfw112_jpeg.npz --only none partialface
    python experiments/methods_on_lfw/run.py --lfw lfw112_jpeg.npz --ablations    # variants of the methods, as well
    python experiments/methods_on_lfw/run.py --table                              # table and figure of results.jsonl
    python experiments/methods_on_lfw/run.py --lfw lfw112_jpeg.npz --full --out full   # IResNet-50, 112 px, full length

`--lfw` is the usual folder (lfw/NAME/NAME_0001.jpg with pairs.txt and people.txt) or a packed .npz file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
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
FOLDS, SEEDS, SILOS, BATCH, STEPS = (0, 1), (1, 2, 3), 10, 16, 2
RECIPE = [
    "data=lfw", "data.min_images=4", "data.max_images_per_identity=10", f"train.clients={SILOS}",
    f"train.batch_size={BATCH}", f"train.local.steps={STEPS}", "tracking=none", "engine=inline",
    "evaluation.reference=false", "evaluation.bootstrap=0", "evaluation.far=[0.1,0.01]",
    "evaluation.every=1000000",  # at the end alone
]  # fmt: skip
SMALL = {"words": ["data.size=64"], "passes": 16, "draws": 3}
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
ABLATIONS: dict[str, list[str]] = {
    "duetface, masks anywhere": ["protection=duetface", "protection.roi=none"],
    "partialface, all subsets": ["protection=partialface", "protection.identity_triples=false"],
}
PHASES = {"duetface": ("client_rounds", 0.3), "advface": ("split_rounds", 0.5)}
"""The setting of a method's own phase, and its rounds as a share of the recipe's."""


def federation_of(arm: str, fold: int, seed: int, lfw: str, scratch: str, recipe: dict[str, Any]) -> tuple[Any, int]:
    """Return the federation of one cell and the number of training images.

    Every recogniser makes the same image passes. AdvFace trains its recogniser in its phase too, so that phase's rounds
    are taken from the main ones; DuetFace's client net is another network, whose rounds come on top.
    """
    from fedveil.federation.federation import Federation

    method = arm.partition(",")[0]
    words = [*RECIPE, *words_of(arm, recipe), f"data.root={lfw}", f"data.held_fold={fold}", f"seed={seed}"]
    words += [f"evaluation.draws={recipe['draws']}", f"runs.root={scratch}/runs", f"vault.root={scratch}/vault"]
    images = len(Federation.of(words).split.train)
    rounds = main = round(recipe["passes"] * images / SILOS / BATCH / STEPS)
    if method in PHASES:
        setting, share = PHASES[method]
        own = round(share * rounds)
        words.append(f"protection.{setting}={own}")
        main = rounds - own if method == "advface" else rounds
    return Federation.of([*words, f"train.rounds={main}"]), images


def words_of(arm: str, recipe: dict[str, Any]) -> list[str]:
    """Return a method's own words and those of the recipe that it knows."""
    from fedveil.configuration import plugins

    fields = {field.name for field in dataclasses.fields(plugins.method("protection", arm.partition(",")[0]))}
    known = [
        word for word in recipe["words"]
        if not word.startswith("protection.") or word.partition("=")[0].removeprefix("protection.") in fields
    ]  # fmt: skip
    return [*{**ARMS, **ABLATIONS}[arm], *known]


def cell(arm: str, fold: int, seed: int, lfw: str, recipe: dict[str, Any]) -> dict[str, object]:
    """Run one method on one held fold with one seed."""
    import torch

    from fedveil.commands import simulate

    torch.set_num_threads(1)
    begun, spent = time.perf_counter(), time.process_time()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - a worker process has nothing to say
    with tempfile.TemporaryDirectory(prefix="fedveil-", dir=os.environ.get("FEDVEIL_SCRATCH")) as scratch:
        federation, images = federation_of(arm, fold, seed, lfw, scratch, recipe)
        result = simulate.simulate(federation, "cell", "quiet")
        used = time.perf_counter() - begun, time.process_time() - spent
        extra = clean_gallery(federation, scratch) if arm == "advface" else None
    final = result["final"]
    return {
        "arm": arm, "fold": fold, "seed": seed, "images": images, "rounds": len(result["rounds"]),
        "accuracy": final["accuracy"], "draw_sd": final["draw_sd"], "eer": final["eer"], "auc": final["auc"],
        "tar": final["tar"], "adv/clean": extra, "seconds": used[0], "cpu_seconds": used[1],
    }  # fmt: skip


def clean_gallery(federation: Any, scratch: str) -> dict[str, float]:
    """Return accuracy and area of protected against clean features (adv/clean) of the finished run's model."""
    import torch

    from fedveil import runs
    from fedveil.evaluation import protocol
    from fedveil.federation.tensors import set_tensors

    arrays, _ = runs.unpack(Path(scratch) / "runs" / "cell" / "checkpoint.npz")
    settings, split, backbone = federation.settings, federation.split, federation.backbone()
    set_tensors(backbone, {k[7:]: v for k, v in arrays.items() if k.startswith("tensor/")})
    state = {k[6:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("state/")}
    found = protocol.evaluate(
        backbone, federation.protection, state, split.evaluation, draws=settings.evaluation.draws, seed=settings.seed,
        gallery="clean", fars=settings.evaluation.far, repeats=0,
    )  # fmt: skip
    return {"accuracy": found.accuracy, "draw_sd": found.draw_sd or 0.0, "eer": found.eer, "auc": found.auc,
            "tar": dict(found.tar)}  # fmt: skip


def results(out: Path) -> list[dict[str, Any]]:
    """Return the finished cells."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(todo: list[tuple[str, int, int]], lfw: str, recipe: dict[str, Any], workers: int, out: Path) -> None:
    """Run cells, each in a process of its own, and append every finished one; a line says how long the rest takes."""
    context, begun = multiprocessing.get_context("spawn"), time.perf_counter()
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        jobs = [pool.submit(cell, *key, lfw, recipe) for key in todo]
        try:
            for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                entry = job.result()
                with (out / "results.jsonl").open("a") as stream:
                    stream.write(json.dumps(entry) + "\n")
                left = (time.perf_counter() - begun) / number * (len(todo) - number) / 60
                print(f"{number}/{len(todo)} {entry['arm']}, fold {entry['fold']}, seed {entry['seed']}: "
                      f"{100 * entry['accuracy']:.1f} %, {entry['cpu_seconds']:.0f} CPU s; "
                      f"about {left:.0f} min to go", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def main() -> None:
    """Run what is missing, then print the table."""
    import report  # beside this script

    every = [*ARMS, *ABLATIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lfw", help="LFW folder or packed .npz file")
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=every, metavar="METHOD",
                        help=f"methods to run, of {', '.join(map(repr, every))}")
    parser.add_argument("--ablations", action="store_true", help="run the variants too")
    parser.add_argument("--folds", nargs="*", type=int, default=FOLDS, help="held folds, 0..9 (0 1)")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS, help="public seeds (1 2 3)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--full", action="store_true", help="112 px, IResNet-50, published widths, 60 passes")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.jsonl (this one)")
    parser.add_argument("--table", action="store_true", help="only draw the table and the figure")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    recipe: dict[str, Any] = FULL if chosen.full else SMALL
    size = next(int(word.partition("=")[2]) for word in recipe["words"] if word.startswith("data.size="))
    # First, while nothing else runs.
    cost = report.costs(chosen.out, {arm: words_of(arm, recipe) for arm in ARMS}, size)
    if not chosen.table:
        if chosen.lfw is None:
            parser.error("--lfw is needed to run")
        arms = dict.fromkeys([*chosen.only, *(ABLATIONS if chosen.ablations else [])])
        have = {(entry["arm"], entry["fold"], entry["seed"]) for entry in results(chosen.out)}
        todo = [
            (arm, fold, seed) for seed in chosen.seeds for fold in chosen.folds for arm in arms
            if (arm, fold, seed) not in have
        ]  # fmt: skip
        try:
            run(todo, str(Path(chosen.lfw).expanduser().resolve()), recipe, chosen.workers, chosen.out)
        except KeyboardInterrupt:
            print(f"\ninterrupted; the same command goes on with what is missing of {len(todo)} cells", file=sys.stderr)
            sys.exit(130)
    done = results(chosen.out)
    print(report.table(done, cost, ARMS))
    if any(entry["arm"] in ABLATIONS for entry in done):
        print("\n" + report.ablations(done, ABLATIONS))
    report.figure(done, cost, ARMS, size, chosen.out / "accuracy.png")


if __name__ == "__main__":
    main()
