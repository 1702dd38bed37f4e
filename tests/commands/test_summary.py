"""What the end of a run says about it, in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from fedveil import config
from fedveil.commands import summary

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
