"""A run with banded noise from end to end: engines, interruptions, what it claims and how that is audited."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from fedveil import cli
from fedveil.privacy.ledger import Ledger
from fedveil_strategies import client_level

WORDS = (
    "study=quick", "tracking=none", "protection=none", "train.clients=12", "train.cohort.rate=0.25", "train.rounds=6",
    "privacy.client.epsilon=8", "privacy.client.delta=1e-5", "privacy.client.bands=3",
)  # fmt: skip


def test_banded_noise_is_equal_on_every_engine_and_after_an_interruption(tmp_path, monkeypatch):
    """What a fixed test seed promises, of noise that a later round takes off again."""
    monkeypatch.chdir(tmp_path)
    words = [*WORDS, "privacy.test_seed=5"]
    found = {}
    for engine in ("inline", "pool"):
        assert cli.main(["simulate", *words, f"engine={engine}", "--json", f"{engine}.json", "--plain"]) == 0
        found[engine] = json.loads(Path(f"{engine}.json").read_text())
    assert found["inline"]["model_sha256"] == found["pool"]["model_sha256"]
    (statement,) = [one for one in found["inline"]["statements"] if one["unit"] == "client"]
    assert statement["epsilon"] is None, "its noise is fixed"
    combine = client_level.ClientLevel.combine

    def interrupted(self, number, answers, state):
        if number == 5:
            self._spend(number)
            raise KeyboardInterrupt
        return combine(self, number, answers, state)

    before = set(Path("runs").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(client_level.ClientLevel, "combine", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            cli.main(["simulate", *words, "engine=inline", "--plain"])
    (run,) = set(Path("runs").iterdir()) - before
    assert cli.main(["simulate", "--resume", run.name, "--json", "again.json", "--plain"]) == 0
    assert json.loads(Path("again.json").read_text())["model_sha256"] == found["inline"]["model_sha256"]


def test_a_banded_run_claims_what_its_groups_paid_and_names_its_mechanism(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["simulate", *WORDS, "--json", "out.json", "--plain"]) == 0
    result = json.loads(Path("out.json").read_text())
    client = result["statements"][0]
    assert 7.9 < client["epsilon"] <= 8
    assert "banded noise over 3 rounds" in client["mechanism"]
    assert "at most 2 rounds one client's" in client["mechanism"]
    assert any("3 groups by their public place" in one for one in client["assumptions"])
    owner = [row for row in Ledger(Path(".fedveil/vault/ledger.sqlite")).rows() if row.status == "reserved"]
    assert [row.event.event.count for row in owner] == [2]
    assert cli.main(["audit", result["run_id"], "--canaries", "60", "--draws", "2000"]) == 0
