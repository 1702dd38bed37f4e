"""Banded against independent noise at equal client-level epsilon: exact errors of prefix sums, and accuracy of runs.

    python experiments/matrix_noise/run.py --exact           # the table of exact errors, half a minute
    python experiments/matrix_noise/run.py --runs runs       # federations on drawn faces; resumes where it stopped
    python experiments/matrix_noise/run.py --table           # the table of results.csv

Every federation is one `fedveil simulate`; a finished one is a row of results.csv and is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
DELTA = 1e-5
ROUNDS = (24, 100, 400)
RATES = (0.01, 0.05, 0.1, 0.25, 1.0)
BANDS = (1, 2, 4, 8, 16, 32)
BASE = (
    "protection=none", "data.identities=2000", "data.images_per_identity=6", "train.clients=1000",
    "train.cohort.rate=0.1", "train.rounds=24", "train.lr=0.1", "train.local.steps=2", "train.warm_start=public",
    "train.warm_steps=100", "train.trainable=units.1.*", "privacy.client.delta=1e-5", "privacy.client.clip=0.3",
    "engine=inline", "evaluation.every=24", "evaluation.bootstrap=0", "evaluation.reference=false", "tracking=none",
)  # fmt: skip
COLUMNS = ("epsilon", "bands", "seed", "accuracy", "noise_multiplier", "loudness", "spent")


def exact() -> Iterator[str]:
    """Yield the Markdown table: noise that a model carries, in clipping norms, for each schedule at equal epsilon."""
    from fedveil.privacy import banded, calibration

    yield "| epsilon | rounds | rate | " + " | ".join(f"{b} bands" if b > 1 else "independent" for b in BANDS) + " |"
    yield "|---" * (3 + len(BANDS)) + "|"
    for epsilon in (4.0, 8.0):
        for rounds in ROUNDS:
            for rate in RATES:
                found: dict[int, float] = {}
                for bands in BANDS:
                    if rate * bands > 1 or bands > rounds:
                        continue
                    count = math.ceil(rounds / bands)
                    noise = calibration.noise_multiplier_for(epsilon, DELTA, rate * bands, count).noise_multiplier
                    found[bands] = noise * math.sqrt(banded.strategy(rounds, bands).error())
                best = min(found.values())
                cells = [f"**{found[b]:.2f}**" if found.get(b) == best else f"{found[b]:.2f}" if b in found else ""
                         for b in BANDS]  # fmt: skip
                yield f"| {epsilon:g} | {rounds} | {rate:g} | {' | '.join(cells)} |"


def loaded() -> list[dict[str, str]]:
    """Return the rows of results.csv."""
    if not RESULTS.exists():
        return []
    with open(RESULTS, newline="") as stream:
        return list(csv.DictReader(stream))


def federations(runs: Path, epsilons: list[str], bands: list[int], seeds: list[int]) -> None:
    """Run what results.csv does not have, and write each run's row as soon as it ends."""
    from fedveil.federation import planning
    from fedveil.federation.federation import Federation

    for seed in seeds:
        for epsilon in epsilons:
            for band in bands if epsilon != "inf" else [1]:
                if any((r["epsilon"], int(r["bands"]), int(r["seed"])) == (epsilon, band, seed) for r in loaded()):
                    continue
                own = [f"privacy.client.epsilon={epsilon}", f"seed={seed}", f"runs.root={runs}"]
                own += [f"privacy.client.bands={band}"] if band > 1 else []
                out = runs / "last.json"
                words = [*BASE, *own, f"vault.root={runs}/vault", "--plain", "--json", str(out)]
                print("fedveil simulate", *words, flush=True)
                runs.mkdir(parents=True, exist_ok=True)
                command = [sys.executable, "-m", "fedveil.cli", "simulate", *words]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                result = json.loads(out.read_text())
                settings = Federation.of([*BASE, *own]).settings
                claim = next(one for one in result["statements"] if one["unit"] == "client")
                row = (epsilon, band, seed, result["final"]["accuracy"], settings.privacy.client.noise_multiplier,
                       planning.loudness(settings), claim["epsilon"])  # fmt: skip
                new = not RESULTS.exists()
                with open(RESULTS, "a", newline="") as stream:
                    writer = csv.writer(stream, lineterminator="\n")
                    writer.writerows([COLUMNS, row] if new else [row])


def table() -> str:
    """Return the Markdown table of results.csv."""
    groups: dict[tuple[float, int], list[dict[str, str]]] = {}
    for row in loaded():
        groups.setdefault((float(row["epsilon"]), int(row["bands"])), []).append(row)
    lines = ["| epsilon (delta 1e-5) | noise | seeds | noise multiplier | as loud in the model as | accuracy ± sd |"]
    lines.append("|---|---|---|---|---|---|")
    for (epsilon, bands), rows in sorted(groups.items()):
        found = [100 * float(row["accuracy"]) for row in rows]
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        noise, loud = rows[0]["noise_multiplier"], "none"
        if noise:
            loud = f"{float(noise) * float(rows[0]['loudness']):.3f}"
        kind = "none, clipped alone" if not noise else "independent" if bands == 1 else f"banded over {bands} rounds"
        shown = f"{float(noise):.3f}" if noise else "0"
        mean = f"{statistics.mean(found):.1f}{spread} %"
        lines.append(f"| {epsilon:g} | {kind} | {len(rows)} | {shown} | {loud} | {mean} |")
    return "\n".join(lines)


def main() -> None:
    """Do what the words say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", action="store_true", help="the table of exact errors alone")
    parser.add_argument("--table", action="store_true", help="the table of results.csv alone")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run store (runs)")
    parser.add_argument("--epsilon", nargs="+", default=["4.0", "8.0", "inf"], help="targets")
    parser.add_argument("--bands", nargs="+", type=int, default=[1, 4, 8], help="1: independent noise")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds of data and networks")
    chosen = parser.parse_args()
    if chosen.exact:
        for line in exact():
            print(line, flush=True)
        return
    if not chosen.table:
        federations(chosen.runs, chosen.epsilon, chosen.bands, chosen.seeds)
    print(table())


if __name__ == "__main__":
    main()
