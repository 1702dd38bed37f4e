"""What the end of a run says about it, in plain words."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedveil import config, console
from fedveil.commands import simulate, summary
from fedveil.federation.federation import Federation

FINAL = {"accuracy": 0.501, "fold_sd": 0.01, "draw_sd": None, "eer": 0.499, "auc": 0.5, "tar": {}}
CLIENT = "privacy.client.epsilon=8"


def closing(words: list[str], **more: Any) -> str:
    result = {"run_id": "r", "final": FINAL, "statements": [], "model_sha256": "0", "wall_seconds": 1.0,
              "peak_memory_mb": 1.0, **more}  # fmt: skip
    return summary.closing(config.load([*words, "vault.root=nowhere"]), result, None)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["protection=none"], "lower train.lr and train.head_lr"),
        (["protection=dctdp"], "a larger protection.total_epsilon"),
        (["protection=dctdp", CLIENT], "a larger privacy.client.epsilon"),
    ],
)
def test_a_run_that_collapsed_says_so_and_what_to_try(words: list[str], remedy: str) -> None:
    text = closing(words, collapsed=True)
    plain = " ".join(text.split())
    assert "This run collapsed: its model tells people apart no better than guessing" in plain
    assert "(EER 49.9 %, accuracy 50.1 %)" in plain
    assert remedy in plain
    assert max(map(len, text.splitlines())) <= 80


def test_other_runs_do_not() -> None:
    assert "collapsed" not in closing(["protection=none"], collapsed=False)
    assert "collapsed" not in closing(["protection=none"])  # a result of an earlier version


def test_what_a_run_took_is_what_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import time; time.sleep(0.3); from fedveil import cli; print(time.perf_counter() - cli._began())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) >= (0.29 if sys.platform == "linux" else 0.0)  # before anything of fedveil was imported
    federation = Federation.of([
        "data.identities=6", "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=3",
        "data.public_identities=6", "data.public_images=2", "data.pairs=40", "train.clients=2", "train.rounds=1",
        "train.local.steps=1", "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0", "model.width=8",
        "protection=none", "tracking=none", "engine=inline", f"runs.root={tmp_path}", f"vault.root={tmp_path / 'v'}",
    ])  # fmt: skip
    result = simulate.simulate(federation, "run", "quiet", began=time.perf_counter() - 1000)
    assert 1000 < result["wall_seconds"] < 2000
    shown = summary.closing(federation.settings, result, None, 1234.0)
    assert f"run run: {console.clock(1234.0)} by the clock, peak memory" in shown
    later = summary.closing(federation.settings, result, None)
    assert f"run run: {console.clock(result['wall_seconds'])}, peak memory" in later
