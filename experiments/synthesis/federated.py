"""A generator of drawn faces learns photographs from four owners, under two budgets and without one.

`python experiments/synthesis/federated.py --root lfw112.npz --generator generator.safetensors`: the generator that all
start from has seen drawn faces alone. A line each in federated.jsonl: what the ledger claims, the accuracy of faces
that the generator made anew, and its denoising loss on photographs of people whom nobody has learnt.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch

from fedveil import config
from fedveil.data.faces import FaceSet
from fedveil.federation.federation import Federation
from fedveil.generators._network import Generator
from fedveil.privacy.ledger import Ledger
from fedveil.runs import Run
from fedveil.synthesis import checkpoint
from fedveil.synthesis.training import in_range

HERE = Path(__file__).parent
RECIPE = [
    "generator=id3", "generator.width=32", "generator.multipliers=[1,2]", "protection=none", "data=lfw",
    "data.size=32",
    "data.min_images=2", "train.warm_start_is_public=true", "train.clients=4", "train.rounds=40", "train.local.steps=1",
    "train.lr=10",
    "train.weight_decay=0", "train.average=0.5", "partition.max_images_per_identity=10",
    "partition.max_identities=200", "evaluation.every=40", "evaluation.bootstrap=0", "evaluation.draws=1",
    "evaluation.reference=false", "tracking=none", "aggregation=fedadam",
    "aggregation.server_lr=0.001",
]  # fmt: skip
BUDGET = ["privacy.image.sampling_rate=0.05", "privacy.image.expected_batch=50", "privacy.image.views=2",
          "privacy.image.clip=0.2"]  # fmt: skip
ARMS = {
    "no budget": ["generator.shared=true", "train.batch_size=50"],
    "clip only": ["generator.shared=true", "privacy.image.epsilon=inf", *BUDGET],
    "image epsilon 8": ["privacy.image.epsilon=8", *BUDGET],
    "image epsilon 2": ["privacy.image.epsilon=2", *BUDGET],
}


def denoising(generator: Generator, faces: FaceSet) -> float:
    """Return the mean loss of predicted noise, without the identity's term, over four draws of each picture."""
    pixels, coins = in_range(torch.from_numpy(faces.images())), torch.Generator().manual_seed(1)
    generator.kappa = 0.0
    with torch.no_grad():
        found = [generator.losses(generator.drawn(part, coins)) for _ in range(4) for part in torch.split(pixels, 256)]
    return float(torch.cat(found).mean())


def main() -> None:
    """Run every arm and write what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--generator", required=True)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--only", nargs="*", default=list(ARMS))
    parser.add_argument("words", nargs="*")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    from fedveil import runs
    from fedveil.commands import simulate

    shared = [f"data.root={chosen.root}", f"train.warm_start={chosen.generator}", f"runs.root={chosen.runs}",
              f"vault.root={chosen.runs}/vault", *chosen.words]  # fmt: skip
    start = checkpoint.read(chosen.generator, config.load([])).generator
    for arm in chosen.only:
        federation = Federation.of([*RECIPE, *shared, *ARMS[arm]])
        held = federation.split.evaluation.faces
        run_id, begun = runs.new_run_id("id3"), time.perf_counter()
        result = simulate.simulate(federation, run_id, "quiet")
        learnt = checkpoint.read(run_id, federation.settings)
        line = {
            "arm": arm, "loss_before": denoising(start, held), "loss": denoising(learnt.generator, held),
            "accuracy": result["final"]["accuracy"], "statements": result["statements"], "mode": learnt.origin.mode,
            "ledger": [
                {"note": row.note, "status": row.status, "event": type(row.event).__name__}
                for row in Ledger(Run(Path(chosen.runs), run_id).ledger).rows(run_id)
            ],
            "noise_multiplier": None if federation.private is None else federation.private.noise_multiplier,
            "rounds": federation.total_rounds, "seconds": round(time.perf_counter() - begun, 1),
        }  # fmt: skip
        with (HERE / "federated.jsonl").open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(arm, line["loss_before"], line["loss"], line["accuracy"], line["seconds"], flush=True)


if __name__ == "__main__":
    main()
