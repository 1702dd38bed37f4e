"""Recognition from drawn, synthetic and real faces and mixtures, with one recipe; a line each in recognition.jsonl.

`python experiments/synthesis/recognition.py --root lfw112.npz --guided faces.npz --unguided faces.npz`: two sets of
`fedveil synthesize data=lfw`. Pairs are the official ones of LFW's fold 0, whose people nobody and nothing has learnt.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch

from fedveil import config
from fedveil.data import synthetic_set
from fedveil.data.faces import FaceSet
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.together import together
from fedveil.evaluation import protocol
from fedveil.federation.federation import Federation
from fedveil.synthesis import recogniser

HERE = Path(__file__).parent
PEOPLE, PICTURES, SIZE = 200, 10, 32


def most_pictured(faces: FaceSet) -> FaceSet:
    """Return the first ten pictures of the 200 people who have most."""
    people, count = np.unique(faces.labels, return_counts=True)
    chosen = people[np.argsort(-count, kind="stable")[:PEOPLE]]
    rows = [np.flatnonzero(faces.labels == one)[:PICTURES] for one in chosen]
    return faces.subset(np.concatenate(rows))


def sets(chosen: argparse.Namespace, real: FaceSet) -> Iterator[tuple[str, FaceSet]]:
    """Yield the compared sets by name."""
    drawn = draw_faces(11, 0, PEOPLE, PICTURES, SIZE)
    guided, unguided = (synthetic_set.read(path, SIZE)[0] for path in (chosen.guided, chosen.unguided))
    few = most_pictured(real)
    yield "drawn", drawn
    yield "synthetic, unguided", unguided
    yield "synthetic, guided", guided
    yield "drawn and synthetic", together([drawn, guided])
    yield "real, 200 people", few
    yield "real 200 and synthetic", together([few, guided])
    yield "real, all of nine folds", real


def main() -> None:
    """Train and evaluate every set with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--guided", required=True)
    parser.add_argument("--unguided", required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    words = ["data=lfw", f"data.root={chosen.root}", f"data.size={SIZE}", "data.min_images=2", "protection=none"]
    for seed in range(1, chosen.seeds + 1):
        federation = Federation(config.load([*words, f"seed={seed}"]))
        for name, faces in sets(chosen, federation.split.train):
            begun = time.perf_counter()
            network = recogniser.recogniser(federation, faces, None, chosen.steps, federation.place)
            pairs, bare = federation.pairs, federation.protection
            found = protocol.evaluate(network, bare, {}, pairs, draws=1, seed=seed, repeats=0)
            line = {
                "set": name, "seed": seed, "people": int(faces.identities.size), "images": len(faces),
                "accuracy": found.accuracy, "auc": found.auc, "eer": found.eer, "steps": chosen.steps,
                "seconds": round(time.perf_counter() - begun, 1),
            }  # fmt: skip
            with (HERE / "recognition.jsonl").open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(f"{name}, seed {seed}: {100 * found.accuracy:.1f} %, AUC {found.auc:.3f}", flush=True)


if __name__ == "__main__":
    main()
