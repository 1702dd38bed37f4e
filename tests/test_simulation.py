"""Simulating from Python: the command's run, told as a value, with the command's refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fedveil
from fedveil import checks, cli, simulation
from fedveil.commands import simulate as command

WORDS = ("study=quick", "engine=inline", "tracking=none", "train.rounds=1", "protection=none", "data.identities=20")


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, str]:
    return f"runs.root={tmp_path / 'runs'}", f"vault.root={tmp_path / 'vault'}"


def test_it_is_the_commands_run(place: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", *WORDS, *place, "--json", str(tmp_path / "told.json")]) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    capsys.readouterr()
    found = fedveil.simulate(*WORDS, *place)
    assert capsys.readouterr().out == ""  # quiet where no terminal is
    assert found.content["model_sha256"] == told["model_sha256"]
    assert found.accuracy == told["final"]["accuracy"]
    assert [one["round"] for one in found.rounds] == [1]
    assert found.run.run_id != told["run_id"]
    assert found.content == json.loads((found.run.folder / "result.json").read_text())
    assert [(one.unit, one.epsilon, one.delta, one.guarantee) for one in found.statements] == [
        (one["unit"], None, None, "none") for one in told["statements"]
    ]
    assert found.content["model_sha256"] in str(found)
    again = fedveil.simulate(place[0], resume=found.run.run_id)
    assert again.content == found.content


def test_what_the_command_refuses_is_refused_in_its_words(
    place: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["train.ronds=3"], ["protection=dctpd"], ["protection.total_epsilon=-1"], ["train.rounds=x"]):
        with pytest.raises(checks.UserError) as refused:
            fedveil.simulate(*words, *place)
        assert cli.main(["simulate", *words, *place]) == 2
        assert str(refused.value) in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [((["study=quick", "seed=1"],), "unpack a list"), (("quick",), "Expected group=name"), ((3,), "Expected words")],
)
def test_what_is_no_word_is_refused(words: tuple[Any, ...], says: str) -> None:
    with pytest.raises(checks.UserError, match=says):
        fedveil.simulate(*words)


def test_a_run_to_go_on_with_is_named_by_its_id(place: tuple[str, str]) -> None:
    with pytest.raises(checks.UserError, match="Expected resume as a run's id"):
        fedveil.simulate(*place, resume=Path("runs/some"))  # type: ignore[arg-type]


def test_an_unknown_way_of_telling_is_refused() -> None:
    with pytest.raises(checks.UserError, match="progress='loud'"):
        fedveil.simulate(*WORDS, progress="loud")


def test_an_interruption_says_how_to_go_on_and_leaves_the_callers_threads(
    place: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = [False]

    def interrupted(federation: Any, run_id: str, *_: Any) -> Callable[..., Any]:
        torch.set_num_threads(2)  # as an engine may have
        if began[0]:
            (tmp_path / "runs" / run_id).mkdir(parents=True)
            (tmp_path / "runs" / run_id / "config.json").touch()
        raise KeyboardInterrupt

    threads = torch.get_num_threads()
    monkeypatch.setattr(command, "simulate", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        simulation.simulate(*WORDS, *place)
    (note,) = stopped.value.__notes__
    assert note == "interrupted before the run began; nothing was released"
    began[0] = True
    with pytest.raises(KeyboardInterrupt) as stopped:
        simulation.simulate(*WORDS, *place)
    (note,) = stopped.value.__notes__
    assert note.startswith("fedveil.simulate(resume='2")
    assert torch.get_num_threads() == threads


def test_a_password_in_a_word_is_in_no_message(place: tuple[str, str]) -> None:
    with pytest.raises(checks.UserError) as refused:
        fedveil.simulate("study=quick", "tracking.uri=https://me:secret@host/", "train.ronds=3", *place)
    assert "secret" not in str(refused.value)


def test_the_package_imports_it_when_it_is_named_and_has_no_other_names() -> None:
    code = "import sys, fedveil; assert 'fedveil.simulation' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert fedveil.simulate is simulation.simulate
    assert fedveil.Result is simulation.Result
    with pytest.raises(AttributeError, match="simulat"):
        _ = fedveil.simulat  # type: ignore[attr-defined]
