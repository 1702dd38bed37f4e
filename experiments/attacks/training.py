"""What updates and released models tell of the pictures they learnt from, without and with private training.

    python experiments/attacks/training.py            # six federations on drawn faces, both attacks; resumes
    python experiments/attacks/training.py --table    # the tables of training.jsonl

The default federation without protection: ten owners, 30 rounds. `inf` clips without noise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import cells  # beside this script

HERE = Path(__file__).parent
BASE = ["protection=none", "tracking=none", "engine=inline", "device=cpu", "evaluation.every=30",
        "evaluation.bootstrap=0", "evaluation.draws=1", "evaluation.reference=false"]  # fmt: skip
ARMS = {
    "no privacy": [],
    "clip only": ["privacy.client.epsilon=inf", "privacy.client.clip=1.0"],
    "client 8": ["privacy.client.epsilon=8", "privacy.client.clip=1.0"],
    "client 1": ["privacy.client.epsilon=1", "privacy.client.clip=1.0"],
    "image 8": ["privacy.image.epsilon=8"],
    "image 1": ["privacy.image.epsilon=1"],
}
MEMBERSHIP = ["attack=membership", "attack.members=200", "attack.images=6", "attack.views=3"]
INVERSION = ["attack=gradient_inversion", "attack.updates=4", "attack.batches=[1]", "attack.steps=[1]",
             "attack.iterations=150"]  # fmt: skip
SHOWN = {
    "membership": ("image_auc", "identity_auc", "vault_auc", "identity_epsilon_lower"),
    "gradient_inversion": ("psnr", "ssim", "retrieved", "template_cosine"),
}


def run_id(arm: str) -> str:
    """Return the name of a federation's run."""
    return arm.replace(" ", "-")


def attacks_of(arm: str) -> list[list[str]]:
    """Return the words of each attack; of clients' guarantees both what the coordinator and what everybody sees."""
    views = ["coordinator", "released"] if arm.startswith("cl") else ["coordinator"]
    return [MEMBERSHIP, *([*INVERSION, f"attack.view={view}"] for view in views)]


def cell(arm: str, scratch: str) -> None:
    """Train one federation and attack it."""
    import torch

    from fedveil.federation.federation import Federation

    torch.set_num_threads(1)
    say = cells.narrator(arm)
    places = [f"runs.root={scratch}/runs", f"vault.root={scratch}/vaults/{run_id(arm)}"]
    cells.attacked(Federation.of([*BASE, *ARMS[arm], *places]), run_id(arm), attacks_of(arm), say)


def table(lines: list[dict[str, Any]], attack: str) -> str:
    """Return the table of one attack."""
    names = SHOWN[attack]
    head = ["training (accuracy)", "who looks", *names, "s", "MB"]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for line in lines:
        finding = line["finding"]
        if finding["attack"] == attack:
            measures = {measure["name"]: measure for measure in finding["measures"]}
            cells = [f"{line['arm']} ({100 * line['accuracy']:.1f} %)", finding["settings"].get("view", "everybody")]
            cells += [shown(measures.get(name)) for name in names]
            cells += [f"{finding['seconds']:.0f}", f"{finding['peak_memory_mb']:.0f}"]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def shown(measure: dict[str, Any] | None) -> str:
    """Return a number with its interval and what no information gives."""
    if measure is None or measure["value"] is None:
        return "-"
    spread = f" [{measure['low']:.2f}, {measure['high']:.2f}]" if measure["low"] is not None else ""
    nothing = f" (nothing: {measure['floor']:.2f})" if measure["floor"] is not None else ""
    return f"{measure['value']:.2f}{spread}{nothing}"


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="federations at once (one per core)")
    parser.add_argument("--scratch", type=Path, default=Path("attacks-on-training"), help="runs and vaults")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of training.jsonl (this one)")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    chosen = parser.parse_args()
    path = chosen.out / "training.jsonl"
    if not chosen.table:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(chosen.workers, mp_context=context, max_tasks_per_child=1) as pool:
            for job in [pool.submit(cell, arm, str(chosen.scratch.resolve())) for arm in chosen.only]:
                job.result()
        lines = cells.lines(chosen.scratch / "runs", {arm: run_id(arm) for arm in ARMS})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    print("\n\n".join(table(lines, attack) for attack in SHOWN))


if __name__ == "__main__":
    main()
