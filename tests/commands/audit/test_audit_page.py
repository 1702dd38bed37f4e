"""docs/audits.md: every mistake of the list has a row, and every named test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/audits.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
MISTAKES = [
    "noise halved", "clip off", "noise per client instead of per sum", "seed reused", "realised denominator",
    "double-counted client", "replace-one claimed with sigma not halved", "fixed cohort claimed as Poisson",
    "fixed cohort claimed as amplified", "owner booking joined rounds at rate q", "one memo draw reused at two scales",
    "coins from the public seed", "batch noise shared between images", "event dropped", "event written after use",
]  # fmt: skip


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_the_named_test_exists(file: str, test: str) -> None:
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_every_mistake_has_a_row_with_a_test() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (`tests/[^|]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= len(MISTAKES)
    for mistake in MISTAKES:
        assert any(found.startswith(mistake) for found, _ in rows), mistake
    assert all(re.fullmatch(r"`tests/[\w/]+\.py::\w+`(, `tests/[\w/]+\.py::\w+`)*", tests) for _, tests in rows)
