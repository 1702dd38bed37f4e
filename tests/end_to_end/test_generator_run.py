"""A run that trains a generator: booked, repeatable on every engine, taken up again, and refused where it must be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedveil import cli, readback, runs
from fedveil.federation.federation import Federation
from fedveil.privacy.events import NonPrivate, Release
from fedveil.privacy.ledger import Ledger
from fedveil.synthesis import checkpoint

SIZES = [
    "generator=id3", "generator.width=8", "generator.multipliers=[1,2]", "generator.attention=0",
    "generator.context=16", "protection=none",
    "model.width=8", "model.embedding=16", "data.identities=6", "data.images_per_identity=4",
    "data.evaluation_identities=6", "data.evaluation_images=3", "data.pairs=20",
]  # fmt: skip
RUN = [
    *SIZES, "train.clients=2", "train.rounds=2", "train.local.steps=2", "train.batch_size=6", "evaluation.draws=1",
    "evaluation.bootstrap=0", "evaluation.reference=false", "tracking=none", "train.warm_start=start.safetensors",
    "train.warm_start_is_public=true",
]  # fmt: skip
IMAGE = ["privacy.image.epsilon=8", "privacy.image.sampling_rate=0.4", "privacy.image.views=2"]


@pytest.fixture(autouse=True)
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    federation = Federation.of([*SIZES, "generator.shared=true"])
    origin = checkpoint.Origin("public", "drawn people")
    checkpoint.write(tmp_path / "start.safetensors", federation.backbone(), federation.settings, origin)


def ran(*words: str) -> dict:
    assert cli.main(["simulate", *RUN, *words, "--json", "found.json"]) == 0
    return json.loads(Path("found.json").read_text())


def test_a_budget_for_pictures_is_booked_claimed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    result = ran(*IMAGE, "engine=inline")
    (said,) = result["statements"]
    assert (said["unit"], said["relation"], said["delta"]) == ("image", "zero-out", 1e-5)
    assert 7.9 < said["epsilon"] <= 8
    assert result["private"] is True
    run = runs.open_run(Path("runs"), result["run_id"])
    assert [type(row.event) for row in Ledger(run.ledger).rows(run.run_id)] == [Release, Release]
    text = capsys.readouterr().out
    assert "faces that the generator made anew" in text
    assert f"fedveil synthesize synthesis.generator={result['run_id']}" in text
    for command in (["attack", run.run_id], ["export", run.run_id, "--safetensors", "a.safetensors"]):
        assert cli.main(command) == 2  # it recognises nobody
        assert "trained a generator of faces" in " ".join(capsys.readouterr().err.split())
    learnt = checkpoint.read(result["run_id"], readback.settings_of(run))
    assert learnt.origin.mode == "federated"
    assert [one["epsilon"] for one in learnt.origin.statements] == [said["epsilon"]]


def test_without_a_budget_it_is_shared_and_says_so() -> None:
    result = ran("generator.shared=true", "engine=inline")
    (said,) = result["statements"]
    assert (said["epsilon"], said["guarantee"]) == (None, "none")
    assert "every face that it makes" in said["view"]
    run = runs.open_run(Path("runs"), result["run_id"])
    assert isinstance(Ledger(run.ledger).rows(run.run_id)[0].event, NonPrivate)
    assert checkpoint.read(result["run_id"], readback.settings_of(run)).origin.mode == "shared"


def test_engines_agree_and_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*IMAGE, "privacy.test_seed=4"]
    first = ran(*words, "engine=inline")["model_sha256"]
    assert ran(*words, "engine=pool", "vault.root=other")["model_sha256"] == first
    from fedveil_strategies.observers import Watch

    checkpointed = Watch.checkpoint

    def stop(self: Watch, report: object) -> None:
        checkpointed(self, report)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "checkpoint", stop)
        assert cli.main(["simulate", *RUN, *words, "engine=inline", "vault.root=third"]) == 130
    (half,) = [path.name for path in Path("runs").iterdir() if path.is_dir() and not (path / "result.json").exists()]
    assert cli.main(["simulate", "--resume", half, "--json", "found.json"]) == 0
    assert json.loads(Path("found.json").read_text())["model_sha256"] == first


def test_a_client_level_budget_goes_with_it() -> None:
    result = ran("privacy.client.epsilon=8", "train.cohort.rate=0.5", "engine=inline")
    units = {one["unit"]: one["epsilon"] for one in result["statements"]}
    assert units["client"] <= 8
    assert units["image"] is None


def test_a_start_of_another_size_is_refused_before_anything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", *RUN, *IMAGE, "generator.width=16"]) == 2
    said = capsys.readouterr().err
    assert "start.safetensors does not fit" in said
    assert "generator.* settings" in said
    assert not Path("runs").exists()
