"""Compare the accountants with a table of published libraries' numbers: `python -m ...accounting.compare TABLE.csv`.

The table has one line per case and library: case, mechanism, params (JSON), delta, accountant, library, version,
epsilon, direction_bound. The output is Markdown; times are processor seconds.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil.privacy.accounting.base import Bound
from fedveil.privacy.accounting.pld import FINAL_GRID, LIVE_GRID, PldAccountant
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import Composed, Event, FixedSize, Gaussian, Laplace, PoissonSampled, Relation, Repeated


@dataclasses.dataclass(frozen=True)
class Case:
    """One mechanism with everything that libraries say about its epsilon.

    Attributes:
        name: of the case in the table.
        mechanism: its kind in the table.
        delta: at which all epsilons are stated.
        event: the same in our words; None where we have no such event, so it would be refused.
        relation: under which the table states it.
        best: the smallest proven upper bound in the table, None if there is none.
        floor: the largest proven lower bound in the table, 0 if there is none.
        traps: numbers in the table that look like bounds and are none.
        loose: the table's upper bound is known to be rounded up, so ours may be smaller.
    """

    name: str
    mechanism: str
    delta: float
    event: Event | None
    relation: Relation
    best: float | None
    floor: float
    traps: tuple[float, ...]
    loose: bool

    def tolerance(self) -> float:
        """Return by how much an upper bound may differ from the table's: 0.5 % + 0.002."""
        return 0.005 * (self.best or 0.0) + 0.002

    def agrees(self, upper: float) -> bool:
        """Return whether an upper bound agrees with the table, is above its lower bounds, and is no trap."""
        near = self.best is None or abs(upper - self.best) <= self.tolerance() or (self.loose and upper < self.best)
        trapped = any(abs(upper - trap) <= self.tolerance() for trap in self.traps)
        return near and upper >= self.floor and not trapped


def read(path: Path) -> list[Case]:
    """Return the cases of a table in its order; calibration targets (no epsilon of a mechanism) are left out.

    Raises:
        UserError: if the file is not such a table.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "direction_bound" not in rows[0]:
        raise checks.UserError(f"Expected {path} to be a table with a direction_bound column.")
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        if not row["direction_bound"].startswith("target"):
            groups.setdefault((row["case"], row["mechanism"]), []).append(row)
    return [_case(name, mechanism, found) for (name, mechanism), found in groups.items()]


def _case(name: str, mechanism: str, rows: list[dict[str, str]]) -> Case:
    uppers, lowers, traps = [], [0.0], []
    for row in rows:
        epsilon, says = float(row["epsilon"]), row["direction_bound"]
        if "TRAP" in row["accountant"]:
            traps.append(epsilon)
        if says.startswith("lower"):
            lowers.append(epsilon)
        elif says == "exact" or (says.startswith("upper") and "only" not in says):
            uppers.append(epsilon)
    params: dict[str, Any] = next(p for row in rows if "WRONG" not in (p := json.loads(row["params"])))
    relation: Relation = "replace-one" if "replace_one" in mechanism else "zero-out"
    loose = any("rounded-up" in row["accountant"] for row in rows)
    best = min(uppers, default=None)
    event = _event(mechanism, params)
    return Case(name, mechanism, float(rows[0]["delta"]), event, relation, best, max(lowers), tuple(traps), loose)


def _event(mechanism: str, p: dict[str, Any]) -> Event | None:
    """Return the mechanism of the table as an event; None for those without one."""

    def sampled(noise: float, rate: float, steps: int) -> Event:
        return Repeated(PoissonSampled(rate, Gaussian(noise)), steps)

    match mechanism:
        case "poisson_subsampled_gaussian":
            return sampled(p["noise_multiplier"], p["sampling_rate"], p["steps"])
        case "gaussian":
            return Repeated(Gaussian(p["noise_multiplier"]), p["compositions"])
        case "continuous gaussian (same sigma)":
            return Repeated(Gaussian(p["sigma"]), p["compositions"])
        case "gaussian (same variance)":
            return Repeated(Gaussian(math.sqrt(p["variance"]) / p["l2"]), p["compositions"])
        case "laplace_homogeneous":
            return Repeated(Laplace(1 / p["epsilon_per_coefficient"]), p["coefficients"])
        case "laplace_heterogeneous":
            weights = [math.exp(-c / p["softmax_tau"]) for c in range(p["channels"])]
            budgets = [p["basic_total"] * w / sum(weights) / p["cells"] for w in weights]
            return Composed(tuple(Repeated(Laplace(1 / budget), p["cells"]) for budget in budgets))
        case "laplace+poisson_gaussian":
            gaussians = sampled(p["gauss_noise_multiplier"], p["sampling_rate"], p["steps"])
            return Composed((Repeated(Laplace(1 / p["laplace_eps"]), p["laplace_count"]), gaussians))
        case "wor_gaussian_replace_one":
            return Repeated(
                FixedSize(p["batch"], p["n"], Gaussian(p["noise_multiplier_vs_C"]), stateless=True), p["steps"]
            )
        case "poisson_gaussian_replace_one" | "poisson_gaussian_add_remove":
            return sampled(p["noise_multiplier_vs_C"], p["batch"] / p["n"], p["steps"])
        case "adaptive_clip_joint":
            return sampled(p["z_effective"], p["sampling_rate"], p["rounds"])
        case "bandmf_amplified (unit column norm C)":
            return sampled(p["noise_multiplier"], p["q_eff"], p["rounds_eff"])
        case "heterogeneous poisson gaussian":
            return Composed(tuple(sampled(*segment) for segment in p["history"]))
    return None


def measure(case: Case, grid: float) -> tuple[Bound, float, float]:
    """Return the bound, processor seconds of the first answer, and after one more equal round."""
    assert case.event is not None
    started = time.process_time()
    accountant = PldAccountant(case.relation, grid=grid).compose(case.event)
    bound = accountant.epsilon(case.delta)
    first = time.process_time() - started
    again = accountant.compose(accountant.segments[-1][0])
    started = time.process_time()
    again.epsilon(case.delta)
    return bound, first, time.process_time() - started


def table(cases: list[Case]) -> str:
    """Return the Markdown table of all cases."""
    lines = [
        "| case | delta | table: lower | upper | ours, grid 1e-4: lower | upper | grid 1e-3: upper | Renyi | agrees | "
        "first answer, processor s (1e-3 / 1e-4) | one more round, processor ms (1e-3 / 1e-4) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        shown = (
            f"| {case.name}: {case.mechanism} | {case.delta:g} | {_number(case.floor or None)} | {_number(case.best)} |"
        )
        if case.event is None:
            lines.append(f"{shown} no such event: refused | | | | - | | |")
            continue
        live, live_first, live_more = measure(case, LIVE_GRID)
        final, final_first, final_more = measure(case, FINAL_GRID)
        renyi = RdpAccountant(case.relation).compose(case.event).epsilon(case.delta)
        agrees = "yes" if case.agrees(final.upper or 0.0) and case.agrees(live.upper or 0.0) else "**NO**"
        lines.append(
            f"{shown} {_number(final.lower)} | {_number(final.upper)} | {_number(live.upper)} | {_number(renyi.upper)} "
            f"| {agrees} | {live_first:.2f} / {final_first:.2f} | {1e3 * live_more:.1f} / {1e3 * final_more:.0f} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Expected one argument: the CSV file to compare with.")
    print(table(read(Path(sys.argv[1]))))
