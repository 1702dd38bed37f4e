"""What cannot run is refused before anything is written, and a run that exists is not touched by a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedveil import checks, cli, config, runs
from fedveil.federation.federation import Federation
from fedveil_strategies import client_level, coordinator

QUICK = ["study=quick", "engine=inline", "tracking=none"]
BUDGET = ["protection=none", "privacy.client.epsilon=8", "privacy.client.delta=1e-5",
          "privacy.client.noise_multiplier=0.01", "privacy.client.on_exhausted=refuse_to_start"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("train.clients=1000", "at most 40 clients"),
        ("data=folder data.root=nowhere data.evaluation=procedural", "nowhere"),
        ("data=folder", "data.root"),
        ("data=packed data.path=nowhere.npz data.evaluation=procedural", "nowhere.npz"),
        ("data=lfw data.root=nowhere", "nowhere"),
        ("train.warm_start=no-such-run", "no-such-run"),
        ("train.trainable=nothing.*", "names no tensor"),
        ("protection=duetface data.size=40", "multiples of 16"),
        ("partition.exponent=-1 partition.kind=long_tailed", "partition.exponent=-1"),
        ("privacy.client.epsilon=8 privacy.client.delta=0.5", "privacy.client.delta=0.5"),
        ("train.rounds=010", "Write 10"),
        ("train.cohort.size=3", "does nothing here"),
        ("data.pairs=1", "data.pairs"),
        ("data.pairs=3", "data.pairs"),
        ("train.clients=40", "40 of 40 clients have one person"),
        ("partition.max_identities=1", "clients have one person"),
        ("partition.kind=long_tailed partition.exponent=50", "clients have one person"),
        ("train.bank_identities=100", "train.bank_identities=100 exceeds the 20"),
        ("engine.round_timeout=0.001", "at least 1 second"),
        ("privacy.client.epsilon=8 train.cohort.rate=1e-6", "Raise the rate"),
        ("privacy.client.epsilon=8 train.cohort.rate=1e-300", "train.cohort.rate=1e-300"),
        *((f"{key}={value}", key) for value in ("1e300", "1e-300") for key in (
            "train.lr", "train.head_lr", "protection.total_epsilon", "protection.fit_lr",
            "aggregation.server_lr", "head.scale", "privacy.client.noise_multiplier", "policy.max_epsilon",
        )),
        *((word, word.partition("=")[0]) for word in (
            "train.weight_decay=1e6", "privacy.client.quantile_lr=1e6", "privacy.client.clip=1e20",
            "model.width=80000", "protection.total_epsilon=1e20", "protection.fit_lr=1e20", "model.width=1e300",
            "aggregation.server_lr=1e20", "data.identities=10000000000",
        )),
    ],
)
def test_a_refused_run_leaves_nothing(words: str, named: str, own_folder: Path, capsys: pytest.CaptureFixture) -> None:
    study = [] if words.startswith("data=") else ["study=quick"]
    assert cli.main(["simulate", *study, "engine=inline", "tracking=none", *words.split()]) == 2
    shown = capsys.readouterr()
    assert named in shown.err
    assert shown.out == ""
    assert list(own_folder.iterdir()) == []


def test_what_is_refused_while_a_run_is_opened_leaves_no_folder(own_folder: Path) -> None:
    assert cli.main(["simulate", *QUICK, *BUDGET]) == 2
    assert list((own_folder / "runs").iterdir()) == []


def test_a_folder_that_was_there_keeps_what_was_in_it(own_folder: Path) -> None:
    federation = Federation.of([*QUICK, *BUDGET])
    log = own_folder / "runs" / "cell" / "worker.log"
    log.parent.mkdir(parents=True)
    log.write_text("begun\n")
    with pytest.raises(checks.UserError, match="cost epsilon"):
        coordinator.open_session(federation, "cell", "quiet")
    assert contents(own_folder / "runs") == {str(log): b"begun\n"}
    with pytest.raises(checks.UserError, match="at most 40 clients"):
        coordinator.open_session(Federation.of([*QUICK, "train.clients=1000"]), "other", "quiet")
    assert not (own_folder / "runs" / "other").exists()


def test_a_run_that_exists_is_untouched_by_a_refusal(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation.of([*QUICK, "protection=none", "privacy.client.noise_multiplier=1"])
    session = coordinator.open_session(federation, "kept", "quiet")
    assert session.lock is not None
    before = contents(own_folder / "runs")
    with pytest.raises(checks.UserError, match="open in another process"):
        coordinator.open_session(federation, "kept", "quiet")
    assert contents(own_folder / "runs") == before
    session.lock.close()

    def refuse(_: object) -> None:
        raise checks.UserError("no")

    monkeypatch.setattr(client_level, "check_start", refuse)
    with pytest.raises(checks.UserError, match="no"):
        coordinator.open_session(federation, "kept", "quiet")
    assert runs.open_run(own_folder / "runs", "kept").ledger.is_file()
    assert config.from_json((own_folder / "runs/kept/config.json").read_text()) == federation.settings


def test_an_interrupt_keeps_what_can_be_resumed(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client_level, "check_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        coordinator.open_session(Federation.of([*QUICK, *BUDGET]), "begun", "quiet")
    assert runs.open_run(own_folder / "runs", "begun").config.is_file()
