"""What every protection's releases tell an attacker, on people of LFW whom the system never saw.

    python experiments/attacks/run.py --lfw lfw112_jpeg.npz --judge recogniser.onnx    # everything; resumes
    python experiments/attacks/run.py --lfw lfw112_jpeg.npz --judge recogniser.onnx --only duetface
    python experiments/attacks/run.py --table                                          # the table of results.jsonl

The systems are those of experiments/methods_on_lfw (fold 0, seed 1, the same recipe); each is attacked by all attacks
on faces. `--lfw` is the usual folder or a packed .npz file; `--judge` any ONNX recogniser of colour pictures.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import cells  # beside this script

HERE = Path(__file__).parent
FOLD, SEED = 0, 1
ATTACKS = "replay,linear,decoder,distillation"
COEFFICIENT = "dctdp, per coefficient"
ARMS = ("none", "dct", "dctdp", COEFFICIENT, "duetface", "partialface", "minusface", "advface")
SHOWN = ("linked", "rank1", "replayed", "ssim", "psnr")


def methods() -> Any:
    """Return the experiment whose systems are attacked."""
    path = HERE.parent / "methods_on_lfw" / "run.py"
    spec = importlib.util.spec_from_file_location("methods_on_lfw", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ABLATIONS[COEFFICIENT] = ["protection=dctdp", "protection.mode=coefficient", "protection.mean_epsilon=0.5"]
    return module


def run_id(arm: str) -> str:
    """Return the name of a system's run.

    >>> run_id("dctdp, per coefficient")
    'dctdp-per-coefficient'
    """
    return arm.replace(", ", "-").replace(" ", "-")


def cell(arm: str, chosen: dict[str, Any]) -> None:
    """Train one system and attack it."""
    import dataclasses

    import torch

    from fedveil.federation.federation import Federation

    torch.set_num_threads(chosen["threads"])
    say = cells.narrator(arm)
    recipe = {**methods().SMALL, "passes": chosen["passes"]}
    planned, _ = methods().federation_of(arm, FOLD, SEED, chosen["lfw"], chosen["out"], recipe)
    kept = dataclasses.replace(planned.settings.vault, root=str(Path(chosen["vaults"]) / run_id(arm)))
    federation = Federation(dataclasses.replace(planned.settings, device=chosen["device"], vault=kept))
    words = [f"attack={chosen['attacks']}", f"attack.victims={chosen['victims']}", f"attack.images={chosen['images']}"]
    words += [f"attack.judge={chosen['judge']}"] if chosen["judge"] else []
    cells.attacked(federation, run_id(arm), [[*words, *chosen["words"]]], say)


def results(out: Path) -> list[dict[str, Any]]:
    """Return the lines that are there."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """Return the table of all attacks: each number with its interval, then what nothing and clean pictures give."""
    head = ["method (accuracy)", "attack", *SHOWN, "s an image", "s in all", "MB"]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    order = {arm: place for place, arm in enumerate(ARMS)}
    for line in sorted(lines, key=lambda line: order[line["arm"]]):
        finding = line["finding"]
        if "failed" in finding:
            continue
        cells = [f"{line['arm']} ({100 * line['accuracy']:.1f} %)", finding["attack"]]
        measures = {measure["name"]: measure for measure in finding["measures"]}
        cells += [shown(measures.get(name)) for name in SHOWN]
        each = finding["seconds_per_image"]
        cells.append("-" if each is None else f"{each:.4f}")
        cells += [f"{finding['seconds']:.0f}", f"{finding['peak_memory_mb']:.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def shown(measure: dict[str, Any] | None) -> str:
    """Return a number as `95.0 [92.0, 98.0]`: the value and its interval."""
    if measure is None or measure["value"] is None:
        return "-"
    factor, digits = (100, 1) if measure["unit"] == "share" else (1, 1 if measure["unit"] == "dB" else 2)
    number = {key: factor * measure[key] for key in ("value", "low", "high") if measure.get(key) is not None}
    spread = f" [{number['low']:.{digits}f}, {number['high']:.{digits}f}]" if "low" in number else ""
    return f"{number['value']:.{digits}f}{spread}"


def run(chosen: argparse.Namespace) -> None:
    """Run what is missing, one process a system, and write the lines of all that is there."""
    names = ("attacks", "words", "passes", "victims", "images", "device", "threads")
    settings: dict[str, Any] = {name: getattr(chosen, name) for name in names}
    settings["vaults"] = str(chosen.vaults.resolve())
    settings["lfw"], settings["out"] = str(Path(chosen.lfw).expanduser().resolve()), str(chosen.scratch.resolve())
    settings["judge"] = str(Path(chosen.judge).expanduser().resolve()) if chosen.judge else None
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(chosen.workers, mp_context=context, max_tasks_per_child=1) as pool:
        for job in concurrent.futures.as_completed([pool.submit(cell, arm, settings) for arm in chosen.only]):
            job.result()
    lines = cells.lines(chosen.scratch / "runs", {arm: run_id(arm) for arm in ARMS})
    (chosen.out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lfw", help="LFW folder or packed .npz file")
    parser.add_argument("--judge", help="ONNX recogniser")
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=ARMS, metavar="METHOD", help=", ".join(ARMS))
    parser.add_argument("--attacks", default=ATTACKS, help=f"attacks, comma-separated ({ATTACKS})")
    parser.add_argument("--words", nargs="*", default=[], metavar="WORD", help="settings: attack.steps=600 ...")
    parser.add_argument("--passes", type=float, default=16, help="passes over the training images (16)")
    parser.add_argument("--victims", type=int, default=200, help="people attacked (200)")
    parser.add_argument("--images", type=int, default=2500, help="pictures of the attacker's own people (2500)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="systems at once (one per core)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each (1)")
    parser.add_argument("--scratch", type=Path, default=Path("attacks-on-lfw"), help="runs (attacks-on-lfw)")
    parser.add_argument("--vaults", type=Path, default=Path("attacks-on-lfw/vaults"), help="their vaults")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.jsonl (this one)")
    parser.add_argument("--table", action="store_true", help="only print the table")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        if chosen.lfw is None:
            parser.error("--lfw is needed to run")
        run(chosen)
    print(table(results(chosen.out)))


if __name__ == "__main__":
    main()
