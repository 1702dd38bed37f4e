"""Engines in turn on equal work, as ratios to the bare loop: `bench.py CASE REPETITIONS OUT.json ENGINE...`.

The order is A B C, A B C, ..., and a ratio compares two runs of one turn. `--memory` samples the proportional memory of
the whole tree every 0.2 seconds instead (sampling takes processor time). `foreign` is how many cores everything else on
the machine used meanwhile: believe wall ratios where it is near 0, processor ratios otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cases
import tree

HERE = Path(__file__).resolve().parent


def once(engine: str, case: str, folder: Path, memory: bool) -> dict[str, Any]:
    """Return what one run of one engine took."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_HOME": str(folder / "flwr"), "PYTHONPATH": str(HERE)}
    command = [sys.executable, str(HERE / "one.py"), engine, case, str(folder)]
    begun, busy = time.monotonic(), tree.busy()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        peak, used = 0.0, 0.0
        while process.poll() is None:
            if memory:
                peak = max(peak, tree.memory(process.pid))
            used = max(used, tree.processor(process.pid))
            time.sleep(0.2)
        wall = time.monotonic() - begun
        out.seek(0)
        text = out.read().decode(errors="replace")
    lines = [line for line in text.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{engine} on {case} failed:\n{text[-3000:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    foreign = max(0.0, tree.busy() - busy - used) / wall
    time.sleep(2.5 if engine == "ray" else 0.2)  # Ray's actors take their time to leave
    return {**found, "process": wall, "pss_mb": peak, "foreign": foreign}


def value(row: dict[str, Any], key: str) -> float:
    """Return one figure of a run."""
    if key == "later":
        return statistics.median(row["rounds"][1:])
    if key == "around":
        return (row["cpu"] - row["inside"]) / row["inside"] if row["inside"] else math.nan
    if key == "above":
        return float(row["pss_mb"] - row["imports_mb"])
    return float(row[key])


MEANING = {
    "wall": "seconds from pictures in memory to the last checkpoint",
    "cpu": "processor seconds of the whole tree over the same time",
    "around": "processor seconds outside the local steps over those inside (not seen of Ray's workers)",
    "later": "seconds of a later round, median",
    "process": "seconds of the whole process, imports included",
    "pss_mb": "peak proportional memory of the tree, MiB",
    "above": "the same above what the process had before it began, MiB",
}


def table(rows: list[dict[str, Any]], engines: list[str], keys: list[str]) -> str:
    """Return medians with their spread, and ratios to the first engine within each repetition, as Markdown."""
    lines = []
    for key in keys:
        title = f"| {key}: {MEANING[key]} | median [min-max] | ratio to {engines[0]} [min-max] |"
        lines += ["", title, "|---|---|---|"]
        for engine in engines:
            mine = [row for row in rows if row["engine"] == engine]
            base = {row["repetition"]: value(row, key) for row in rows if row["engine"] == engines[0]}
            found = [value(row, key) for row in mine]
            ratios = [value(row, key) / base[row["repetition"]] for row in mine]
            lines.append(f"| {engine} | {spread(found)} | {spread(ratios)} |")
    hashes = {row["engine"]: row["sha256"] for row in rows if row["sha256"]}
    if len(hashes) > 1:
        equal = len({row["sha256"] for row in rows if row["sha256"]}) == 1
        lines += ["", f"models of {', '.join(hashes)}: {'equal' if equal else f'DIFFERENT: {hashes}'}"]
    foreign = [row["foreign"] for row in rows]
    lines += ["", f"cores used by everything else meanwhile: {spread(foreign)}"]
    return "\n".join(lines)


def spread(found: list[float]) -> str:
    return f"{statistics.median(found):.3g} [{min(found):.3g}-{max(found):.3g}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=list(cases.CASES))
    parser.add_argument("repetitions", type=int)
    parser.add_argument("out", type=Path, help="every run's figures, JSON")
    parser.add_argument("engines", nargs="+", choices=["loop", "inline", "wire", "pool", "ray"])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--folder", type=Path, help="for pictures and runs; default: a temporary one")
    chosen = parser.parse_args()
    engines = chosen.engines
    if "ray" in engines and importlib.util.find_spec("ray") is None:
        print("ray is not installed (pip install -c constraints.txt '.[simulation]'): left out", flush=True)
        engines = [engine for engine in engines if engine != "ray"]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        cases.pictures(folder, cases.CASES[chosen.case].clients)
        for repetition in range(chosen.repetitions):
            for engine in engines:
                row = {**once(engine, chosen.case, folder, chosen.memory), "repetition": repetition}
                rows.append(row)
                chosen.out.write_text(json.dumps(rows))
                print(
                    f"{repetition} {engine:7s} wall {row['wall']:.2f} s, processor {row['cpu']:.2f} s (in local steps "
                    f"{row['inside']:.2f} s), peak {row['pss_mb']:.0f} MiB, foreign {row['foreign']:.2f} cores",
                    flush=True,
                )
    print(table(rows, engines, ["pss_mb", "above"] if chosen.memory else ["wall", "cpu", "around", "later", "process"]))


if __name__ == "__main__":
    main()
