"""`fedveil attack`: what it prints, keeps, finds again and refuses; each attack once on a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedveil import checks, cli, console, readback
from fedveil.attacks import _chosen, _judges, _kept, replay
from fedveil.attacks.base import LEVELS
from fedveil.commands.audit import audit
from fedveil.federation.coordinating import AtCoordinator
from fedveil.federation.federation import Federation
from fedveil.runs import Run

SMALL = [
    "protection=dct", "tracking=none", "engine=inline", "data.identities=12", "data.images_per_identity=4",
    "data.evaluation_identities=12", "data.public_identities=12", "data.pairs=60", "train.rounds=1", "train.clients=2",
    "evaluation.reference=false", "evaluation.bootstrap=0",
]  # fmt: skip
FEW = ["attack.victims=40", "attack.images=120"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with one finished run, `runs/<its id>`; attackers' networks are trained for a moment."""
    folder = tmp_path_factory.mktemp("attacks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(_judges, "_PHASES", ((3, 0.05),))
        assert cli.main(["simulate", *SMALL, "--plain"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run_of(place: Path) -> Run:
    (path,) = (place / "runs").glob("*/result.json")
    return Run(place / "runs", path.parent.name)


def test_a_finding_is_printed_kept_and_found_again(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, words = run_of(place), ["attack=replay", *FEW, "tracking=none"]
    assert cli.main(["attack", run.run_id, *words, "--json", "out.json"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= console.WIDTH
    assert "replay on dct: static" in shown
    assert LEVELS["static"].split(",")[0] in " ".join(shown.split())
    (found,) = json.loads(Path("out.json").read_text())["findings"]
    (kept,) = _kept.findings_of(run)
    assert {**kept, "file": ""} == {**found, "file": ""}
    monkeypatch.setattr(replay.Replay, "run", lambda *_: pytest.fail("it was run already"))
    assert cli.main(["attack", run.run_id, *words]) == 0
    assert capsys.readouterr().out == shown
    with pytest.raises(pytest.fail.Exception):
        cli.main(["attack", run.run_id, *words, "--again"])
    with pytest.raises(pytest.fail.Exception):
        cli.main(["attack", run.run_id, *words, "attack.seed=2"])


def test_a_damaged_finding_is_found_anew(place: Path) -> None:
    run, words = run_of(place), ["attack=replay", *FEW, "attack.seed=3", "tracking=none"]
    assert cli.main(["attack", run.run_id, *words]) == 0
    path = _kept.path_of(run, "replay", _chosen.of(words[:-1])[0].attack)
    before = json.loads(path.read_text())
    path.write_text('{"attack": "replay"}')
    assert cli.main(["attack", run.run_id, *words]) == 0
    same = ("measures", "people", "settings")
    assert {name: json.loads(path.read_text())[name] for name in same} == {name: before[name] for name in same}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["attack=linar"], "Did you mean 'linear'?"),
        (["attack=replay", "attack.victms=3"], "Did you mean 'victims'?"),
        (["attack=replay", "attack.victims=many"], "attack.victims"),
        (["attack=replay", "attack.victims=0"], "victims=0"),
        (["attack=replay", "attack.judge=nowhere.onnx"], "nowhere.onnx"),
        (["attack=replay", "attack.people=nowhere"], "nowhere"),
        (["train.rounds=3"], "does nothing here"),
    ],
)
def test_a_users_mistake_names_the_word_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    run = run_of(place)
    before = sorted(run.folder.rglob("*"))
    assert cli.main(["attack", run.run_id, *words]) == 2
    assert named in capsys.readouterr().err
    assert sorted(run.folder.rglob("*")) == before


def test_an_unfinished_run_and_one_without_its_model_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(place)
    for path, said in ((run.result, "has not ended"), (run.checkpoint, "checkpoint.npz")):
        aside = path.rename(path.with_suffix(".aside"))
        try:
            assert cli.main(["attack", run.run_id, "attack=replay", "attack.seed=9"]) == 2
            assert said in capsys.readouterr().err
        finally:
            aside.rename(path)


def test_a_run_of_owners_nodes_is_audited_without_faces_and_never_attacked_with_somebody_elses(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever did not train is no member: an attack that misses them would be taken for evidence."""
    run = run_of(place)
    vaults = run.folder / "vaults.json"
    simulated = vaults.read_text()
    assert not readback.at_owners(run)
    monkeypatch.setattr(Federation, "split", property(lambda self: pytest.fail("training faces were opened")))
    vaults.write_text(json.dumps({"c0001": "one", "c0002": "another"}))
    try:
        assert cli.main(["attack", run.run_id, "attack=replay", "attack.seed=9"]) == 2
        assert "nobody who trained is on this machine" in " ".join(capsys.readouterr().err.split())
        assert isinstance(audit.subject([run.run_id]).federation, AtCoordinator)
    finally:
        vaults.write_text(simulated)
    assert not isinstance(audit.subject([run.run_id]).federation, AtCoordinator)


def test_attacks_are_no_setting_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", "attack=linear"]) == 2
    assert "fedveil attack RUN_ID attack=linear" in capsys.readouterr().err


def test_words_reach_the_attacks_that_have_them() -> None:
    words = ["attack=replay,linear", "attack.victims=40", "attack.reach=2"]
    both: list[Any] = [one.attack for one in _chosen.of(words)]
    assert [one.victims for one in both] == [40, 40]
    assert both[1].reach == 2
    assert _chosen.of(["attack=none"]) == []
    with pytest.raises(checks.UserError, match="reach"):
        _chosen.of(["attack=replay", "attack.reach=2"])


def test_findings_do_not_tell_when_a_run_with_a_secret_cohort_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, "protection=none", "train.clients=4", "privacy.client.epsilon=8", "privacy.client.clip=1.0"]
    assert cli.main(["simulate", *words, "--plain"]) == 0
    run = run_of(tmp_path)
    assert cli.main(["attack", run.run_id, "attack=replay", *FEW, "tracking=none"]) == 0
    began = run.config.stat().st_mtime_ns
    written = [path for path in run.folder.rglob("*") if path.name != ".lock"]
    assert any(path.parent.name == "attacks" for path in written)
    assert {path.stat().st_mtime_ns for path in written} == {began}
