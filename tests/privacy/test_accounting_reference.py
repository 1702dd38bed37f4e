"""The accountants against a table of published libraries' numbers; skipped where that table is absent."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fedveil.privacy.accounting import compare
from fedveil.privacy.accounting.compare import Case
from fedveil.privacy.accounting.pld import FINAL_GRID, LIVE_GRID, PldAccountant
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.calibration import noise_multiplier_for

TABLE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "dp-reference.csv"
present = pytest.mark.skipif(
    not TABLE.exists(), reason="the table of published libraries' numbers is not on this machine"
)
CASES = compare.read(TABLE) if TABLE.exists() else []
PRICED = [case for case in CASES if case.event is not None]
QUICK = [case for case in PRICED if case.mechanism != "laplace_heterogeneous"]


def check(case: Case, grid: float) -> None:
    assert case.event is not None
    found = PldAccountant(case.relation, grid=grid).compose(case.event).epsilon(case.delta)
    assert found.upper is not None
    assert found.lower is not None
    assert case.agrees(found.upper), (found, case.best, case.floor)
    assert case.best is None or found.lower <= case.best + case.tolerance()
    assert RdpAccountant(case.relation).compose(case.event).upper(case.delta) >= found.upper - 1e-6


@present
@pytest.mark.parametrize("case", QUICK, ids=lambda case: f"{case.name.split()[0]}-{case.mechanism}")
def test_live_bounds_agree_with_the_table(case: Case) -> None:
    check(case, LIVE_GRID)


@pytest.mark.slow
@present
@pytest.mark.parametrize("case", PRICED, ids=lambda case: f"{case.name.split()[0]}-{case.mechanism}")
def test_final_bounds_agree_with_the_table(case: Case) -> None:
    check(case, FINAL_GRID)


@present
def test_the_table_is_read_completely() -> None:
    assert len(PRICED) >= 40
    assert sum(len(case.traps) for case in CASES) >= 6
    refused = {case.mechanism for case in CASES if case.event is None}
    assert refused == {
        "truncated_poisson_gaussian",
        "discrete_gaussian",
        "skellam",
        "single_epoch_tree_aggregation (replace-special)",
    }


@pytest.mark.slow
@present
def test_calibrated_noise_agrees_with_the_table() -> None:
    with TABLE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["accountant"] == "calibrate_pld"]
    assert rows
    for row in rows:
        p = json.loads(row["params"])
        found = noise_multiplier_for(p["target_epsilon"], float(row["delta"]), p["sampling_rate"], p["steps"])
        assert found.noise_multiplier == pytest.approx(p["found_noise_multiplier"], rel=3e-3)


def test_a_table_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    head = "case,mechanism,params,delta,accountant,library,version,epsilon,direction_bound\n"
    gauss = 'T1,gaussian,"{""noise_multiplier"": 10.0, ""compositions"": 100}",1e-5'
    path.write_text(
        head
        + f"{gauss},exact,own,1,4.37718,exact\n"
        + f"{gauss},prv,other,1,4.36,lower bound\n"
        + 'T2,skellam,"{""variance"": 1}",1e-5,rdp,other,1,2.0,upper bound\n'
    )
    known, unknown = compare.read(path)
    assert (known.best, known.floor, unknown.event) == (4.37718, 4.36, None)
    assert known.agrees(4.38)
    assert not known.agrees(4.42), "too loose"
    assert not known.agrees(4.359), "below a proven lower bound"
    lines = compare.table([known, unknown]).splitlines()
    assert "| yes |" in lines[2]
    assert "refused" in lines[3]
