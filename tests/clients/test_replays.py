"""Clients that train again in this process do what they do behind an engine, and keep what they keep there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedveil.commands import simulate
from fedveil.federation.federation import Federation
from fedveil_clients import replays
from fedveil_clients.vault import Vault
from fedveil_strategies import coordinator

WORDS = (
    "study=quick", "tracking=none", "protection=none", "engine=inline", "device=cpu", "data.identities=8",
    "data.images_per_identity=3", "data.evaluation_identities=6", "data.pairs=20", "train.clients=2", "train.rounds=2",
    "train.local.steps=2", "train.batch_size=4", "model.width=8", "model.embedding=16", "evaluation.bootstrap=0",
    "evaluation.draws=1", "data.public_identities=6",
)  # fmt: skip
PRIVATE = ("privacy.image.noise_multiplier=1.5", "privacy.image.expected_batch=4", "privacy.test_seed=3")
KINDS = {
    "corrected": ("train.correction=scaffold",),
    "phases": ("protection=duetface", "protection.client_rounds=1", "train.rounds=1"),
    "private steps": (*PRIVATE, "train.rounds=1"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_run_makes_the_same_model(kind: str, tmp_path: Path) -> None:
    def words(name: str) -> list[str]:
        return [*WORDS, *KINDS[kind], f"runs.root={tmp_path / name}", f"vault.root={tmp_path / name / 'vault'}"]

    federation, run_id = simulate.prepare(words("engine"), None)
    by_engine = simulate.simulate(federation, run_id, "quiet")
    again = Federation.of(words("again"))
    session = coordinator.open_session(again, "again", "quiet")
    replayed = coordinator.coordinate(session, replays.clients(again, "again"))
    assert replayed["model_sha256"] == by_engine["model_sha256"]
    assert replayed["statements"] == by_engine["statements"]


def test_kept_centres_are_the_rows_that_a_client_ended_with(tmp_path: Path) -> None:
    federation = Federation.of([*WORDS, f"runs.root={tmp_path}", f"vault.root={tmp_path / 'vault'}"])
    session = coordinator.open_session(federation, "one", "quiet")
    assert replays.kept_centres(federation, "one", "c0001") is None
    coordinator.coordinate(session, replays.clients(federation, "one"))
    kept = replays.kept_centres(federation, "one", "c0002")
    assert kept is not None
    assert kept.rows.shape == (4, 16)
    own = federation.faces_of("c0002")
    assert kept.of == {name: row for row, name in enumerate(own.present_names)}
    last = Vault(tmp_path / "vault").heads("one", "c0002").before(3)
    assert last is not None
    assert np.array_equal(kept.rows, last)
    more = Federation.of([*WORDS, f"vault.root={tmp_path / 'vault'}", "data.identities=12"])
    assert replays.kept_centres(more, "one", "c0002") is None  # not of these people


def test_private_rows_go_by_name(tmp_path: Path) -> None:
    words = [*WORDS, *KINDS["private steps"], f"runs.root={tmp_path}", f"vault.root={tmp_path / 'vault'}"]
    federation = Federation.of(words)
    coordinator.coordinate(coordinator.open_session(federation, "one", "quiet"), replays.clients(federation, "one"))
    kept = replays.kept_centres(federation, "one", "c0001")
    assert kept is not None
    assert len(kept.rows) == 256
    assert len(set(kept.of.values())) > 1
    assert max(kept.of.values()) < 256
