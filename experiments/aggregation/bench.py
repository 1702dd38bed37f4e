"""What a coordinator needs to sum a round, beside another commit: time, processor time and memory.

    git worktree add ../before COMMIT
    python experiments/aggregation/bench.py ../before results.jsonl --turns 3

Every measurement has a process of its own (`one.py`). Commits run in turn, A B, A B. One thread for Torch and BLAS; the
blocks of a sum take the cores that the process may use.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
BOTH = [("sum", "plain", 10), ("sum", "client", 10), ("sum", "grid", 10), ("round", "superlink", 10)]
ONE = [("sum", "plain", 100), ("sum", "client", 100), ("round", "superlink", 100), ("round", "inline", 10),
       ("round", "inline", 100), ("round", "inline", 1000)]  # fmt: skip


def measured(root: Path, case: tuple[str, str, int]) -> str:
    """Return one row of JSON."""
    paths = os.pathsep.join(str(root.resolve() / part) for part in ("platform", "clients", "strategies"))
    here = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE.parent / "one.py"), *map(str, case)]
    return subprocess.run(command, env=here, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("rows", type=Path, help="a file that rows are added to")
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    now = HERE.parents[2]
    cases = [(root, case) for _ in range(asked.turns) for case in BOTH for root in (now, asked.before)]
    for root, case in [*cases, *((now, case) for case in ONE)]:
        with asked.rows.open("a") as rows:
            rows.write(measured(root, case))
