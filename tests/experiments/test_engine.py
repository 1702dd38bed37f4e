"""The engines' benchmark: its ratios by hand, and that it measures equal work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "engine"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    import bench as loaded

    yield loaded
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def row(engine, repetition, wall, digest=""):
    return {"engine": engine, "repetition": repetition, "wall": wall, "sha256": digest, "foreign": 0.5}


def test_a_ratio_compares_two_runs_of_one_turn(bench):
    rows = [row("loop", 0, 10.0), row("pool", 0, 6.0), row("loop", 1, 20.0), row("pool", 1, 10.0)]
    text = bench.table(rows, ["loop", "pool"], ["wall"])
    assert "| loop | 15 [10-20] | 1 [1-1] |" in text
    assert "| pool | 8 [6-10] | 0.55 [0.5-0.6] |" in text
    assert "0.5 [0.5-0.5]" in text


@pytest.mark.parametrize(("digest", "said"), [("a", "models of inline, pool: equal"), ("b", "DIFFERENT")])
def test_models_that_differ_are_said(bench, digest, said):
    rows = [row("loop", 0, 1.0), row("inline", 0, 1.0, "a"), row("pool", 0, 1.0, digest)]
    assert said in bench.table(rows, ["loop", "inline", "pool"], ["wall"])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("words", [(), ("--memory",)])
def test_the_benchmark_runs_the_loop_and_our_engines_on_equal_work(tmp_path, words):
    out = tmp_path / "rows.json"
    engines = ["loop", "inline", "wire", "pool"]
    command = [sys.executable, str(FOLDER / "bench.py"), "tiny", "1", str(out), *engines, *words]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "models of inline, wire, pool: equal" in shown
    rows = json.loads(out.read_text())
    assert [one["engine"] for one in rows] == engines
    assert all(0 < one["inside"] < one["cpu"] + 0.05 for one in rows)
    assert all(len(one["rounds"]) == 2 for one in rows)
    assert all((one["pss_mb"] > one["imports_mb"] > 50) == bool(words) for one in rows)
