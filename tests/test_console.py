"""What a round shows: names of clients that failed, and none where who took part is a secret."""

from __future__ import annotations

import pytest

from fedveil.console import Console
from fedveil.records import Failure, RoundReport

REPORT = RoundReport(1, 2, {}, {}, 3, (Failure("c0007", "its disk is full"),), 1.5, 10.0, {})
ENTRY = {"round": 1, "accuracy": None, "statements": []}


def test_who_failed_is_shown_unless_a_client_level_claim_makes_it_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    Console("plain").round({**ENTRY, "seconds": 1.5}, REPORT)
    assert "c0007 counts as zero: its disk is full" in capsys.readouterr().out
    Console("plain").round(ENTRY, REPORT)  # entries of such a run have no durations either
    shown = capsys.readouterr().out
    assert "1/2" in shown
    assert "c0007" not in shown
    assert "disk" not in shown
    assert "1.5" not in shown
