"""Every speed that the documents quote, measured here in one go: `make bench`, which writes docs/benchmarks.md.

Peers are measured where they are installed. What is compared runs in turn, and a ratio compares runs of one turn. Each
part says how many cores everything else on the machine used meanwhile: believe the clock where that is near 0.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "engine"))

import tree  # noqa: E402  (experiments/engine/tree.py)

FEDVEIL = [sys.executable, "-c", "import sys; from fedveil.cli import main; sys.exit(main())"]
TINY = ["tracking=none", "evaluation.reference=false", "evaluation.every=1000", "evaluation.draws=1",
        "evaluation.bootstrap=0", "protection=none"]  # fmt: skip


def spread(found: Sequence[float], digits: int = 3) -> str:
    """Return the median with the range."""
    return f"{statistics.median(found):.{digits}g} [{min(found):.{digits}g}-{max(found):.{digits}g}]"


def timed(words: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """Run fedveil; return seconds by the clock, processor seconds of the tree, and the peak of its memory, MiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen([*FEDVEIL, *words], cwd=folder, env=environment, stdout=output,
                                   stderr=subprocess.STDOUT, text=True)  # fmt: skip
        peak, looked = 0.0, 0.0
        while process.poll() is None:
            if time.perf_counter() - looked > 0.25:  # looking takes processor time
                peak, looked = max(peak, tree.memory(process.pid)), time.perf_counter()
            time.sleep(0.01)
        wall = time.perf_counter() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"fedveil {' '.join(words)} failed:\n{output.read()[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def row(name: str, found: Sequence[Sequence[float]]) -> str:
    """Return a line of a table: what was measured, and each of its figures over the repetitions."""
    return f"| {name} | " + " | ".join(spread(values) for values in zip(*found, strict=True)) + " |"


def engines(folder: Path, repetitions: int) -> list[str]:
    """The engines beside a bare loop, and beside Flower's Ray engine where it is installed."""
    lines = ["Cases and engines: [experiments/engine](../experiments/engine/README.md)."]
    for case, times in (("small", repetitions), ("big", max(1, repetitions - 1))):
        out = folder / f"{case}.json"
        command = [sys.executable, str(HERE.parent / "engine/bench.py"), case, str(times), str(out), "loop", "inline",
                   "pool", "ray"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout[-1000:] + done.stderr[-2000:])
        table = done.stdout[done.stdout.index("\n\n|") :] if "\n\n|" in done.stdout else done.stdout
        lines += ["", f"**{case}**, {times} turns:", table.strip("\n")]
    return lines


def short_runs(folder: Path, repetitions: int) -> list[str]:
    """What a short run and a sweep of six take, MLflow and pictures included."""
    lines = ["| command | seconds by the clock | processor seconds | peak memory, MiB |", "| --- | --- | --- | --- |"]
    sweep = ["sweep", "study=quick", "seed=1,2,3", "protection=none,dctdp"]
    for words, times in ((["simulate", "study=quick"], repetitions), (sweep, max(1, repetitions - 1))):
        found = []
        for number in range(times):
            place = folder / f"{words[0]}{number}"
            place.mkdir()
            found.append(timed(words, place))
        lines.append(row(f"`fedveil {' '.join(words)}`", found))
    return lines


def registries(folder: Path, repetitions: int) -> list[str]:
    """A round of ten among 2,000 and among a million registered clients."""
    lines = ["| registered clients | seconds by the clock | processor seconds | peak memory, MiB |",
             "| --- | --- | --- | --- |"]  # fmt: skip
    for clients in (2_000, 1_000_000):
        found = []
        for number in range(repetitions):
            place = folder / f"registry{clients}-{number}"
            place.mkdir()
            found.append(timed(
                ["simulate", *TINY, f"train.clients={clients}", f"data.identities={2 * clients}",
                 "data.images_per_identity=2", "data.evaluation_identities=20", "data.pairs=40", "train.rounds=2",
                 "train.local.steps=1", "train.cohort.kind=fixed", "train.cohort.size=10"], place,
            ))  # fmt: skip
        lines.append(row(f"{clients:,}", found))
    return lines


def large(folder: Path, repetitions: int) -> list[str]:
    """A packed set of 100,000 drawn people, 10,000 clients, 100 of them in a round."""
    pack = timed(["data", "pack", "--out", "faces.npz", "data=procedural", "data.identities=100000",
                  "data.images_per_identity=2", "data.evaluation_identities=40", "data.pairs=80"], folder)  # fmt: skip
    run = timed(["simulate", *TINY, "data=packed", "data.path=faces.npz", "data.size=32", "data.evaluation=procedural",
                 "data.pairs=200", "train.clients=10000", "train.rounds=20", "train.local.epochs=1",
                 "train.cohort.kind=fixed", "train.cohort.size=100"], folder)  # fmt: skip
    size = (folder / "faces.npz").stat().st_size / 1e6
    lines = [f"100,000 drawn people of two pictures each, 32 pixels ({size:.0f} MB packed); 10,000 clients of ten",
             "people, 100 of them in each of 20 rounds of one epoch, two workers. One run each.", "",
             "| what | seconds by the clock | processor seconds | peak memory, MiB |",
             "| --- | --- | --- | --- |"]  # fmt: skip
    for name, found in (("`fedveil data pack`", pack), ("`fedveil simulate`", run)):
        lines.append(f"| {name} | " + " | ".join(f"{value:.3g}" for value in found) + " |")
    return lines


def transforms(folder: Path, repetitions: int) -> list[str]:
    """The frequency transform and the verification protocol, one thread."""
    code = """
import json, time, numpy as np, torch
torch.set_num_threads(1)
from fedveil import frequency
from fedveil.evaluation import verification
images = torch.randint(0, 256, (64, 3, 112, 112), dtype=torch.uint8)
def best(work, count, times=5):
    found = []
    for _ in range(times + 1):
        begun = time.process_time(); work(); found.append((time.process_time() - begun) / count * 1e3)
    return found[1:]
rows = {}
for name, channels in (("192 channels", None), ("27 channels", (1, 2, 3, 8, 9, 10, 16, 17, 24))):
    out = frequency.upsampled_dct(images, channels)
    rows["upsampled DCT of one image of 112 pixels, " + name] = best(
        lambda: frequency.upsampled_dct(images, channels, out=out), 64)
rng = np.random.default_rng(1)
left, right = (rng.standard_normal((6000, 512)) for _ in range(2))
same, folds = np.arange(6000) % 2 == 0, np.repeat(np.arange(10), 600)
def verify():
    scores = verification.scores(left, right)
    verification.kfold_accuracy(scores, same, folds); verification.auc(scores, same)
    verification.tar_at_far(scores, same, (0.01, 0.001))
rows["verification of 6,000 pairs of 512 numbers, ten folds"] = best(verify, 1)
print("ROWS " + json.dumps(rows))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    rows = json.loads(done.stdout.rpartition("ROWS ")[2])
    return ["| what | processor milliseconds |", "| --- | --- |", *(f"| {k} | {spread(v)} |" for k, v in rows.items())]


def private(folder: Path, repetitions: int) -> list[str]:
    """A private training step beside a plain one, every engine, Opacus where it is installed."""
    out = folder / "step.json"
    command = [sys.executable, str(HERE.parent / "private_step/bench.py"), "--json", str(out),
               "--repetitions", str(repetitions), "--cases", *PRIVATE]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stdout[-1000:] + done.stderr[-2000:])
    found = json.loads(out.read_text())
    lines = [f"One thread, batches of {found['batch']} images; cases and engines:",
             "[experiments/private_step](../experiments/private_step/README.md).", "",
             "| network, pixels | engine | processor milliseconds | to plain | MiB above the network | to plain |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in found["rows"]:
        memory = f"{row['mib']:.0f} | {row['memory_ratio']:.2f}" if "memory_ratio" in row else "- | -"
        lines.append(
            f"| {row['case'].replace(':', ', ')} | {row['mode']} | {row['ms']:.3g} [{row['ms_min']:.3g}-"
            f"{row['ms_max']:.3g}] | {row['ratio']:.2f} [{row['ratio_min']:.2f}-{row['ratio_max']:.2f}] | {memory} |"
        )
    return lines


PRIVATE = ("tiny_ir:32", "tiny_ir:64", "anchor:64", "mobilefacenet:112")
PARTS: dict[str, tuple[str, Callable[[Path, int], list[str]]]] = {
    "engines": ("Engines", engines),
    "short": ("Short runs and sweeps", short_runs),
    "registry": ("Registries", registries),
    "large": ("A large packed set", large),
    "transforms": ("Transforms and verification", transforms),
    "private": ("Private steps", private),
}


def machine() -> str:
    """Return what the numbers were measured on."""
    import flwr
    import torch

    processor = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), platform.machine())  # fmt: skip
    return (f"{os.cpu_count()} cores ({processor}), {platform.system()}, Python {platform.python_version()}, torch "
            f"{torch.__version__}, flwr {flwr.__version__}, {datetime.date.today()}.")  # fmt: skip


def main() -> None:
    """Measure the parts and write the page; a part that is left out keeps what stood there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks.md")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    old = chosen.out.read_text() if chosen.out.exists() else ""
    page = ["# Benchmarks", "",
            "Written by `make bench` (`experiments/benchmarks/run.py`); median [smallest-largest]. Each part says when",
            "and on what it was measured. On a GPU: [devices](devices.md).", ""]  # fmt: skip
    for name, (title, work) in PARTS.items():
        if chosen.parts and name not in chosen.parts:
            kept = old.partition(f"## {title}\n")[2].partition("\n## ")[0].strip("\n")
            page += [f"## {title}", "", *([kept, ""] if kept else ["Not measured yet.", ""])]
            continue
        print(f"{title} ...", flush=True)
        begun, busy, own = time.perf_counter(), tree.busy(), resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as folder:
            lines = work(Path(folder), chosen.repetitions)
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
        foreign = max(0.0, tree.busy() - busy - used) / wall
        page += [f"## {title}", "", *lines, "",
                 f"{machine()} {wall:.0f} s; everything else used {foreign:.1f} cores meanwhile.", ""]  # fmt: skip
        print("\n".join(lines), flush=True)
    chosen.out.write_text("\n".join(page).rstrip() + "\n")
    print(f"wrote {chosen.out}")


if __name__ == "__main__":
    main()
