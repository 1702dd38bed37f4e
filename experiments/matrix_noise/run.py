"""Banded against independent noise at equal client-level epsilon: exact errors of prefix sums, and accuracy of runs.

    python experiments/matrix_noise/run.py --exact           # the table of exact errors, three minutes
    python experiments/matrix_noise/run.py                   # federations on drawn faces; resumes where it stopped
    python experiments/matrix_noise/run.py --table           # the table of results.csv

A federation is `linear.run`; a finished one is a row of results.csv and is not run again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
DELTA = 1e-5
ROUNDS = (24, 100, 400)
RATES = (0.01, 0.05, 0.1, 0.25, None)  # None: cohorts of a fixed size, at most a group's
BANDS = (1, 2, 4, 8, 16, 32)
BASE = ("protection=none", "train.clients=1000", "train.rounds=24", "privacy.client.clip=0.3")
COHORTS = {
    "Poisson, 25 expected": ("train.cohort.rate=0.025",),
    "fixed, 100": ("train.cohort.kind=fixed", "train.cohort.size=100"),
}
ARMS = (("inf", 1), ("8", 1), ("8", 8), ("4", 1), ("4", 8))
"""(epsilon, bands); without noise bands change nothing but turns."""
DRAWS = 2  # of noise and coins for each seed
COLUMNS = ("cohort", "epsilon", "bands", "seed", "draw", "before", "accuracy", "spent", "noise")


def exact() -> Iterator[str]:
    """Yield the Markdown table: noise that a model carries, in clipping norms, for each schedule at equal epsilon."""
    from fedveil.privacy import banded, calibration

    yield "| epsilon | rounds | cohorts | " + " | ".join(f"{b} bands" if b > 1 else "independent" for b in BANDS) + " |"
    yield "|---" * (3 + len(BANDS)) + "|"
    for epsilon in (4.0, 8.0):
        for rounds in ROUNDS:
            for rate in RATES:
                found: dict[int, float] = {}
                for bands in BANDS:
                    if (rate or 0) * bands > 1 or bands > rounds:
                        continue
                    count = math.ceil(rounds / bands)
                    # Fixed cohorts are replace-one and not amplified.
                    law = (rate * bands, count, "zero-out") if rate else (1.0, count, "replace-one")
                    plan = calibration.noise_multiplier_for(epsilon, DELTA, *law)
                    found[bands] = plan.noise_multiplier * math.sqrt(banded.strategy(rounds, bands).error())
                best = min(found.values())
                cells = [f"**{found[b]:.2f}**" if found.get(b) == best else f"{found[b]:.2f}" if b in found else ""
                         for b in BANDS]  # fmt: skip
                kind = f"Poisson, rate {rate:g}" if rate else "fixed"
                yield f"| {epsilon:g} | {rounds} | {kind} | {' | '.join(cells)} |"


def loaded() -> list[dict[str, str]]:
    """Return the rows of results.csv."""
    if not RESULTS.exists():
        return []
    with open(RESULTS, newline="") as stream:
        return list(csv.DictReader(stream))


def federations(seeds: list[int]) -> None:
    """Run what results.csv does not have, and write each run's row as soon as it ends."""
    import linear
    import torch

    from fedveil.federation.federation import Federation
    from fedveil.privacy import banded

    torch.set_num_threads(1)
    done = {tuple(row[name] for name in COLUMNS[:5]) for row in loaded()}
    every = itertools.product(seeds, range(1, DRAWS + 1), COHORTS.items(), ARMS)
    for seed, draw, (cohort, laws), (epsilon, bands) in every:
        key = (cohort, epsilon, str(bands), str(seed), str(draw))
        if key in done:
            continue
        words = [*BASE, *laws, f"privacy.client.epsilon={epsilon}"]
        words += [f"privacy.client.bands={bands}"] if bands > 1 else []
        before, after, spent = linear.run(words, seed)
        budget = Federation.of(words).settings.privacy.client
        multiplier = budget.noise_multiplier if budget is not None else None
        error = (multiplier or 0.0) * math.sqrt(banded.strategy(24, bands).error())
        new = not RESULTS.exists()
        with open(RESULTS, "a", newline="") as stream:
            row = (*key, f"{before:.4f}", f"{after:.4f}", f"{spent:.4f}", f"{error:.3f}")
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, row] if new else [row])
        print(*row, flush=True)


def table() -> str:
    """Return the Markdown table of results.csv."""
    groups: dict[tuple[str, float, int], list[dict[str, str]]] = {}
    for row in loaded():
        groups.setdefault((row["cohort"], float(row["epsilon"]), int(row["bands"])), []).append(row)
    lines = ["| cohorts | epsilon (delta 1e-5) | noise | runs | noise in the model | accuracy, mean ± sd |"]
    lines.append("|---" * 6 + "|")
    for (cohort, epsilon, bands), rows in sorted(groups.items()):
        found = [100 * float(row["accuracy"]) for row in rows]
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        noise = float(rows[0]["noise"])
        kind = "none, clipped alone" if not noise else "independent" if bands == 1 else f"banded over {bands} rounds"
        shown = f"{noise:.2f}" if noise else "0"
        mean = f"{statistics.mean(found):.1f}{spread} %"
        lines.append(f"| {cohort} | {epsilon:g} | {kind} | {len(rows)} | {shown} | {mean} |")
    return "\n".join(lines)


def main() -> None:
    """Do what the words say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", action="store_true", help="the table of exact errors alone")
    parser.add_argument("--table", action="store_true", help="the table of results.csv alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of faces and of the start")
    chosen = parser.parse_args()
    if chosen.exact:
        for line in exact():
            print(line, flush=True)
        return
    if not chosen.table:
        federations(chosen.seeds)
    print(table())


if __name__ == "__main__":
    main()
