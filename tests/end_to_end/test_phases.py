"""Protections with federated phases: one schedule, resumable at every border, equal on every engine, paid in full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedveil import cli, config, runs
from fedveil.configuration import plugins
from fedveil.federation import planning
from fedveil.federation.federation import Federation
from fedveil.privacy.events import Release
from fedveil.privacy.ledger import Ledger
from fedveil_strategies import observers, phases, private

BASE = (
    "evaluation.reference=false", "data.identities=9", "data.images_per_identity=4", "data.evaluation_identities=6",
    "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4", "data.public_images=4", "data.size=32",
    "protection.fit_steps=1", "model.width=8", "model.embedding=16", "train.clients=4", "train.rounds=2",
    "train.local.steps=1", "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0",
    "engine=inline", "tracking=none",
)  # fmt: skip
METHODS = {
    "duetface": ("protection=duetface", "protection.client_rounds=2"),
    "minusface": ("protection=minusface", "protection.federated_rounds=2"),
    "advface": ("protection=advface", "protection.split_rounds=2", "protection.steps=2"),
}
TOTAL = 4


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    yield
    torch.set_num_threads(threads)


def run(*words: str) -> dict:
    assert cli.main(["simulate", *BASE, *words, "--json", "found.json"]) == 0
    return json.loads(Path("found.json").read_text())


@pytest.fixture(params=METHODS, scope="module")
def method(request):
    return METHODS[request.param]


@pytest.fixture(scope="module")
def whole(method, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        patch.setattr(observers, "draw", lambda *_: [])
        return run(*method)


def test_the_rounds_of_all_stages_are_numbered_through(method, whole):
    assert [entry["round"] for entry in whole["rounds"]] == [1, 2, 3, 4]
    assert ["phase" in entry for entry in whole["rounds"]] == [True, True, False, False]
    assert [entry["accuracy"] is None for entry in whole["rounds"]] == [True, True, False, False]
    federation = Federation.of([*BASE, *method])
    first, last = federation.stages
    assert (first.first, first.last, last.first, last.last) == (1, 2, 3, TOTAL)
    assert [federation.stage_of(number).index for number in range(1, 5)] == [0, 0, 1, 1]


@pytest.mark.parametrize(("method_name", "after"), [("checkpoint", 1), ("evaluate", 2), ("checkpoint", 3)])
def test_an_interruption_anywhere_changes_nothing(method, whole, monkeypatch, method_name, after):
    original = getattr(observers.Watch, method_name)

    def stop(self, report):
        if report.round == after:
            raise KeyboardInterrupt
        original(self, report)

    with monkeypatch.context() as patch:
        patch.setattr(observers.Watch, method_name, stop)
        assert cli.main(["simulate", *BASE, *method]) == 130
    run_id = next(Path("runs").glob("2*")).name
    assert cli.main(["simulate", "--resume", run_id, "--json", "found.json"]) == 0
    found = json.loads(Path("found.json").read_text())
    assert found["model_sha256"] == whole["model_sha256"]
    assert found["final"] == whole["final"]


def test_an_interruption_between_two_stages_changes_nothing(method, whole, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(phases, "advance", stop)
        assert cli.main(["simulate", *BASE, *method]) == 130
    run_id = next(Path("runs").glob("2*")).name
    assert runs.unpack(Path("runs", run_id, "checkpoint.npz"))[1]["round"] == 2
    assert cli.main(["simulate", "--resume", run_id, "--json", "found.json"]) == 0
    assert json.loads(Path("found.json").read_text())["model_sha256"] == whole["model_sha256"]


def test_the_pool_gives_the_same_model(method, whole):
    assert run(*method, "engine=pool", "engine.workers=2")["model_sha256"] == whole["model_sha256"]


def test_what_a_phase_learns_is_in_the_state_and_its_own_head_stays_apart(method):
    found = run(*method)
    folder = Path("runs", found["run_id"])
    arrays, meta = runs.unpack(folder / "checkpoint.npz")
    assert meta["stage"] == 1
    protection = config.build(config.load([*BASE, *method]), "protection")
    assert any(name.startswith("state/") for name in arrays)
    heads = Path(".fedveil/vault/heads", found["run_id"])
    for client in heads.iterdir():
        assert sorted(path.name for path in client.glob("r*.npz"))[-1] == "r000004.npz"
        assert sorted(path.name for path in (client / "phase0").glob("r*.npz"))[-1] == "r000002.npz"
    assert len(protection.phases) == 1


def test_a_client_level_budget_pays_for_the_phases(method, monkeypatch):
    original, noised = private.noise.gaussian, []

    def watching(stream, sigma):
        noised.append(float(sigma.reshape(-1)[0]))
        return original(stream, sigma)

    monkeypatch.setattr(private.noise, "gaussian", watching)
    budget = ("privacy.client.epsilon=8", "privacy.client.delta=1e-5", "privacy.client.clip=0.5")
    found = run(*method, *budget)
    rows = Ledger(Path("runs", found["run_id"], "ledger.sqlite")).rows()
    spent = [row for row in rows if isinstance(row.event, Release)]
    assert len(spent) == TOTAL
    assert len(noised) >= TOTAL, "every round of every stage is noised"
    assert len(set(noised)) == 1, "with one scale"
    client = next(s for s in found["statements"] if s["unit"] == "client")
    assert 7.5 < client["epsilon"] <= 8.0
    settings = planning.planned(config.load([*BASE, *method, *budget]))
    plain = [word for word in BASE if not word.startswith("protection")]
    bare = planning.planned(config.load([*plain, "protection=none", f"train.rounds={TOTAL}", *budget]))
    assert settings.privacy.client.noise_multiplier == bare.privacy.client.noise_multiplier
    image = next(s for s in found["statements"] if s["unit"] == "image")
    assert image["epsilon"] is None


def test_methods_without_phases_have_one_stage():
    for name in plugins.names("protection"):
        if name not in METHODS:
            assert len(Federation.of([f"protection={name}"]).stages) == 1
