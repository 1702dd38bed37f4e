"""What every command in the folder promises, found by listing it; a new file is tested without editing this one."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import pytest

from fedveil import cli, commands, config, console
from fedveil.attacks import _chosen
from fedveil.commands.sweep import grid
from fedveil.commands.synthesize import chosen as synthesize
from fedveil.configuration import settings, words

NAMES = commands.names()
README = (Path(__file__).parents[2] / "README.md").read_text()


def help_text(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*given, "--help"])
    assert not ended.value.code
    return capsys.readouterr().out


def examples(name: str) -> list[list[str]]:
    """Return the commands below a command's help, without their comments; a backslash goes on in the next line."""
    lines = commands.load(name).EXAMPLES.replace("\\\n", " ").splitlines()
    shown = [line.strip() for line in lines if re.match(r"  (fedveil|flwr) ", line)]
    return [shlex.split(line, comments=True) for line in shown]


@pytest.mark.parametrize("name", NAMES)
def test_a_command_has_a_line_examples_arguments_and_run(name: str) -> None:
    command = commands.load(name)
    assert 10 < len(commands.help_of(name)) <= 72
    assert (inspect.getdoc(command) or "").splitlines()[0].rstrip(".") == commands.help_of(name)
    assert command.EXAMPLES.startswith("example")
    assert command.EXAMPLES.endswith("\n")
    assert [*inspect.signature(command.arguments).parameters] == ["parser"]
    assert [*inspect.signature(command.run).parameters] == ["chosen"]
    sections = {key.partition(".")[0] for key in settings.every()}
    assert set(commands.reads(command)) <= {*sections, words.ATTACK}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_80_columns_and_shows_examples(
    name: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = help_text(capsys, name)
    assert [line for line in shown.splitlines() if len(line) > console.WIDTH] == []
    assert f"usage: fedveil {name}" in shown
    assert f"  fedveil {name}" in shown
    assert commands.help_of(name) in " ".join(shown.split())


def test_the_list_of_commands_and_the_first_words_fit_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = help_text(capsys)
    assert all(re.search(rf"^    {name}\b", shown, re.MULTILINE) for name in NAMES)
    assert cli.main([]) == 0
    start = capsys.readouterr().out
    assert max(map(len, [*shown.splitlines(), *start.splitlines()])) <= console.WIDTH
    assert len(start.splitlines()) <= 12
    for line in re.findall(r"(fedveil simulate.*?)(?:   |$)", start, re.MULTILINE):
        assert config.load(shlex.split(line)[2:])


@pytest.mark.parametrize("name", NAMES)
def test_examples_parse_and_their_words_are_accepted(name: str) -> None:
    shown = [example for example in examples(name) if example[0] == "fedveil"]
    assert shown
    for example in shown:
        chosen = cli._chosen(example[1:])
        assert chosen.command == name
        if name == "synthesize":
            assert synthesize.of(chosen.words)
            continue
        mine, others = _chosen.apart(getattr(chosen, "words", []))
        assert grid.expand(others).cells if name == "sweep" else config.load(others)
        assert [*_chosen.of(mine)] or not mine


def test_the_words_below_a_commands_help_are_accepted() -> None:
    lines = re.findall(r"^  (\S+=\S+)", cli._FORMS, re.MULTILINE)
    assert len(lines) == 3
    assert config.load(lines)
    assert all(group in words.GROUPS for group in ("protection", "study"))


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_shows_the_command(name: str) -> None:
    assert re.search(rf"^fedveil {name}\b", README, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in NAMES if commands.reads(commands.load(name))])
def test_a_word_that_the_command_does_not_read_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = {
        "enrol": ["a-run", "faces", "--owner", "me"],
        "attack": ["a-run"],
        "report": ["a-run"],
        "summary": ["a-run"],
        "ledger": ["a-run"],
        "verify": ["a-run", "lfw.bin"],
        "export": ["a-run", "--onnx", "a.onnx"],
    }.get(name, [])
    assert cli.main([name, *places, "train.rounds=3"]) == 2
    read = ", ".join(commands.reads(commands.load(name)))
    assert f"train.rounds=3 does nothing here: `fedveil {name}` reads {read}" in capsys.readouterr().err
