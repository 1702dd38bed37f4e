"""The audited lower bound beside each epsilon: what steps over everybody show of canaries, priced over the schedule.

    python experiments/private_training/audited.py          # writes audited.json, which the table reads

This is the strongest of the bounds of `fedveil audit study=private`, at confidence 95 % each; no owner's data is read.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import math
import multiprocessing
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), *(str(ROOT / name) for name in ("platform", "clients", "strategies"))]

from arms import EPSILONS, UNITS, Arm, words  # noqa: E402

LEVEL = 0.05


def lower(unit: str, epsilon: str, draws: int) -> tuple[str, float]:
    """Return the arm and the lower bound on what its whole schedule costs, nats, from so many canaries."""
    from fedveil.commands.audit import training
    from fedveil.federation.federation import Federation
    from fedveil.privacy import audit
    from fedveil_clients import canaries

    federation = Federation.of(words(Arm({}, unit, epsilon), {}, {"data.root": "lfw.npz"}))
    budget = federation.private
    if budget is None or budget.delta is None:
        raise ValueError("An audit needs a budget with noise.")
    scores = canaries.unsampled(federation, draws)
    mu = audit.by_halves(scores, lambda counts: audit.gaussian_mu(counts, LEVEL))[0]
    return f"{unit} {epsilon}", round(training.priced(budget, federation.private_rounds, mu, budget.delta), 3)


def main() -> int:
    """Write the bound of every unit and epsilon."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20_000, help="canaries of steps over all (default 20000)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--out", type=Path, default=HERE / "audited.json", help="file of bounds")
    wanted = parser.parse_args()
    arms = [(u, e) for u, e in itertools.product(UNITS, EPSILONS) if float(e) != math.inf]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(wanted.workers, context) as pool:
        jobs = [pool.submit(lower, *arm, wanted.draws) for arm in arms]
        found = dict(job.result() for job in jobs)
    wanted.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(wanted.out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
