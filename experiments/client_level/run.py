"""Accuracy against client-level epsilon, drawn faces and LFW, with and without DCTDP; an audited lower bound beside.

    python experiments/client_level/run.py --lfw lfw112_jpeg.npz               # everything; resumes where it stopped
    python experiments/client_level/run.py --only drawn "drawn, dctdp"          # some arms
    python experiments/client_level/run.py --table                             # table and figure of results.csv

`--lfw` is the usual folder (lfw/NAME/NAME_0001.jpg with pairs.txt and people.txt) or a packed .npz file. Every arm is
one `fedveil sweep`, so Ctrl-C loses at most one round, and `fedveil ui runs.root=RUNS` shows the pages.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
FEDVEIL = [sys.executable, "-m", "fedveil.cli"]
DCTDP = ["protection=dctdp", "protection.total_epsilon=1000"]
SILOS = ["train.clients=10", "train.cohort.rate=1.0", "train.rounds=10"]
ARMS: dict[str, list[str]] = {
    "drawn": ["study=client_frontier"],
    "drawn, dctdp": ["study=client_frontier", *DCTDP, "privacy.client.epsilon=1,8,inf"],
    "LFW": ["study=client_frontier_lfw"],
    "LFW, dctdp": ["study=client_frontier_lfw", *DCTDP, "privacy.client.epsilon=1,8,inf"],
    "LFW, ten silos": ["study=client_frontier_lfw", *SILOS, "privacy.client.epsilon=8,inf"],
}
COLUMNS = ("arm", "epsilon", "seed", "start", "accuracy", "spent", "delta", "audited", "method")


def words_of(arm: str, lfw: str) -> list[str]:
    """Return the sweep's words."""
    return [*ARMS[arm], *([f"data.root={lfw}"] if arm.startswith("LFW") else [])]


def sweep(arm: str, lfw: str, runs: Path, workers: int) -> list[dict]:
    """Run one arm, or what is left of it, and return one row per run."""
    name = re.sub(r"\W+", "-", arm)
    words = [*words_of(arm, lfw), f"runs.root={runs}", f"vault.root={runs}/vault"]
    command = [*FEDVEIL, "sweep", *words, "--name", name, "--workers", str(workers), "--json", f"{runs}/{name}.json"]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)
    rows = []
    with open(runs / f"sweep-{name}" / "runs.csv", newline="") as stream:
        for run in csv.DictReader(stream):
            folder = runs / run["run_id"]
            result = json.loads((folder / "result.json").read_text())
            claim = next(s for s in result["statements"] if s["unit"] == "client")
            log = (folder / "worker.log").read_text()
            start = re.search(r"warm start: accuracy ([0-9.]+) %", log)
            config = json.loads((folder / "config.json").read_text())
            row = {
                "arm": arm, "epsilon": config["privacy"]["client"]["epsilon"], "seed": config["seed"],
                "start": float(start[1]) / 100 if start else None, "accuracy": result["final"]["accuracy"],
                "spent": claim["epsilon"], "delta": claim["delta"],
            }  # fmt: skip
            rows.append(row | audited(run["run_id"], runs, row["spent"] is not None))
    return rows


def audited(run_id: str, runs: Path, formal: bool) -> dict[str, object]:
    """Attack a run's claim and return the largest lower bound on its epsilon, with the method that found it."""
    if not formal:
        return {"audited": None, "method": ""}
    kept = runs / run_id / "audit.json"
    if not kept.exists():
        command = [*FEDVEIL, "audit", run_id, f"runs.root={runs}", "--json", str(kept)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(kept.read_text())
    whole = [bound for bound in found["bounds"] if "rounds" in bound["what"]]
    best = max(whole, key=lambda bound: bound["audited"])
    return {"audited": best["audited"], "method": best["method"]}


def save(arm: str, rows: list[dict]) -> None:
    """Replace an arm's rows in results.csv."""
    kept = [row for row in load() if row["arm"] != arm] if RESULTS.exists() else []
    with open(RESULTS, "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])


def load() -> list[dict]:
    """Return the rows of results.csv with numbers as numbers."""
    with open(RESULTS, newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        for key in set(COLUMNS) - {"arm", "method"}:
            row[key] = None if row[key] == "" else float(row[key])
        row["seed"] = int(row["seed"])
    return rows


def groups(rows: list[dict]) -> dict[tuple[str, float], list[dict]]:
    """Return the rows by arm and target, over seeds."""
    found: dict[tuple[str, float], list[dict]] = {}
    for row in rows:
        found.setdefault((row["arm"], row["epsilon"]), []).append(row)
    return dict(sorted(found.items(), key=lambda item: (list(ARMS).index(item[0][0]), item[0][1])))


def table() -> str:
    """Return the Markdown table and draw the figure."""
    from fedveil.pictures import frontier as pictures_frontier

    lines = ["| arm | epsilon (delta 1e-5) | seeds | before | after, mean ± sd | audited lower bound |"]
    lines.append("|---|---|---|---|---|---|")
    # Before round 1 a run knows what its seed knows; one that was interrupted did not measure it again.
    begun = {(row["arm"], row["seed"]): row["start"] for row in load() if row["start"] is not None}
    series: dict[str, list[pictures_frontier.Point]] = {}
    for (arm, epsilon), rows in groups(load()).items():
        accuracy = [row["accuracy"] for row in rows]
        sd = statistics.stdev(accuracy) if len(rows) > 1 else None
        starts = [begun[arm, row["seed"]] for row in rows if (arm, row["seed"]) in begun]
        start = f"{100 * statistics.mean(starts):.1f} %" if starts else ""
        bounds = [row["audited"] for row in rows if row["audited"] is not None]
        lower = f"{min(bounds):.2f} to {max(bounds):.2f}" if bounds else "no claim"
        shown = "none: clipped, no noise" if epsilon == float("inf") else f"{epsilon:g}"
        spread = f" ± {100 * sd:.1f}" if sd is not None else ""
        mean = statistics.mean(accuracy)
        lines.append(
            f"| {arm} | {shown} | {len(rows)} | {start} | {100 * mean:.1f}{spread} % | {lower} |"
        )
        point = pictures_frontier.Point(None if epsilon == float("inf") else epsilon, mean, sd, len(rows))
        series.setdefault(arm, []).append(point)
    axis = "epsilon of one client (zero-out, delta 1e-05), nats"
    pictures_frontier.frontier(HERE / "frontier.png", series, axis, 20.0)
    return "\n".join(lines)


def main() -> None:
    """Run the arms in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lfw", default="", help="LFW folder or packed .npz; without it the LFW arms are left out")
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS), help="arms to run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run store (runs)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--table", action="store_true", help="only write table and figure of results.csv")
    chosen = parser.parse_args()
    for arm in () if chosen.table else chosen.only:
        if arm.startswith("LFW") and not chosen.lfw:
            print(f"{arm}: left out, --lfw is not given")
            continue
        save(arm, sweep(arm, chosen.lfw, chosen.runs, chosen.workers))
    print(table())


if __name__ == "__main__":
    main()
