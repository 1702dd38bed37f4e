"""Cold start against a start on synthetic faces: accuracy and epsilon after every round, three kinds of guarantee.

`python experiments/synthesis/warm_start.py --set faces.npz`, a set of `fedveil synthesize` whose generator learnt from
other drawn people than those who train here. A line for each run in warm_start.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
from fedveil import runs
from fedveil.commands import simulate
from fedveil.federation.federation import Federation

HERE = Path(__file__).parent
COMMON = ["protection=none", "evaluation.reference=false", "evaluation.bootstrap=0", "tracking=none", "train.lr=0.03"]
IMAGE = [
    "train.local.steps=1", "train.lr=1", "train.head_lr=1", "train.weight_decay=0", "aggregation.momentum=0",
    "privacy.image.epsilon=8", "privacy.image.sampling_rate=0.5", "privacy.image.expected_batch=120",
    "privacy.image.rows=64",
]  # fmt: skip
CLIENT = [
    "data.identities=2000", "data.images_per_identity=6", "train.clients=1000", "train.cohort.rate=0.1",
    "train.lr=0.1", "train.local.steps=2", "privacy.client.epsilon=8", "privacy.client.clip=0.3", "train.rounds=20",
    "engine=inline",
]  # fmt: skip
KINDS = {"no guarantee": [], "privacy.image=8": IMAGE, "privacy.client=8": CLIENT}
STARTS = {"cold": [], "public": ["train.warm_start=public"], "synthetic": ["train.warm_start=synthetic"]}


def main() -> None:
    """Run every start under every guarantee with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", required=True)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(KINDS))
    chosen = parser.parse_args()
    for seed in range(1, chosen.seeds + 1):
        for kind in chosen.only:
            for start, words in STARTS.items():
                own = [*words, f"train.synthetic={chosen.set}"] if start == "synthetic" else words
                own = [*own, "train.warm_steps=1500"] if words else own
                places = [f"runs.root={chosen.runs}", f"vault.root={chosen.runs}/vault-{kind[-6:]}-{start}-{seed}"]
                federation = Federation.of([*COMMON, *KINDS[kind], *own, *places, f"seed={seed}"])
                begun = time.perf_counter()
                result = simulate.simulate(federation, runs.new_run_id("warm"), "quiet")
                curve = [
                    {"round": entry["round"], "accuracy": entry["accuracy"],
                     "epsilon": {one["unit"]: one["epsilon"] for one in entry["statements"]}}
                    for entry in result["rounds"]
                ]  # fmt: skip
                line = {
                    "kind": kind, "start": start, "seed": seed, "before": result.get("warm_start"), "curve": curve,
                    "final": result["final"]["accuracy"], "statements": result["statements"],
                    "seconds": round(time.perf_counter() - begun, 1),
                }  # fmt: skip
                with (HERE / "warm_start.jsonl").open("a") as out:
                    out.write(json.dumps(line) + "\n")
                print(kind, start, seed, line["before"], line["final"], line["seconds"], flush=True)


if __name__ == "__main__":
    main()
