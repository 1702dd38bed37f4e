"""A mistyped command, option or word is answered with what was meant: one line in a log, 80 columns on a screen."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil import checks, cli, commands, console


def refused(*given: str) -> int:
    try:
        return cli.main([*given])
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("simulat", "Did you mean 'simulate'?"),
        ("quantum", "Choose from attack, audit, bundle"),
        ("train.rounds=3", "fedveil simulate train.rounds=3"),
        ("help simulat", "Did you mean 'simulate'?"),
        ("simulate --rounds 5", "Settings are words: train.rounds=5."),
        ("simulate --rounds=5", "train.rounds=5."),
        ("simulate --rounds", "train.rounds=VALUE."),
        ("simulate --train.rounds 5", "train.rounds=5."),
        ("simulate --batch-size 5", "train.batch_size=5."),
        ("simulate --protection dctdp", "protection=dctdp."),
        ("simulate --study quick", "study=quick."),
        ("simulate --seed 3 --plain", "seed=3."),
        ("simulate --plian", "Did you mean --plain?"),
        ("simulate --res a-run", "Did you mean --resume?"),
        ("simulate --foo-bar", "`fedveil simulate --help` lists them"),
        ("simulate --resume", "--resume"),
        ("--plain simulate", "fedveil simulate --plain"),
        ("methods --sze 3", "Did you mean --size?"),
        ("methods --rounds 3", "`fedveil methods --help`"),
        ("methods anything", "takes no words"),
        ("ui --port http", "--port: Expected 'http' to be a whole number."),
        ("methods --cost --size 1_0", "Write 10."),
        ("data inspct", "Did you mean 'inspect'?"),
        ("data zzz", "Choose from inspect"),
        ("summary", "required: RUN_ID. `fedveil summary --help`"),
        ("bundle study=quick", "FOLDER is missing"),
        ("protect protection=none", "IMAGE_OR_FOLDER is missing"),
        ("simulate quick", "Did you mean study=quick?"),
        ("simulate dctpd", "Did you mean protection=dctdp?"),
        ("simulate train.rounds 5", "Did you mean train.rounds=5?"),
        ("simulate rounds", "Did you mean train.rounds=VALUE?"),
        ("simulate resume a-run", "Did you mean the option --resume?"),
        ("simulate sweep", "`fedveil sweep` is a command of its own"),
        ("simulate study=quik", "Did you mean 'quick'?"),
        ("simulate protecton=none", "Did you mean 'protection'?"),
        ("simulate train.ronds=3", "Did you mean 'rounds'?"),
        ("audit a-run train.rounds=3", "an audit of a run reads runs"),
        ("audit train.ronds=3", "Did you mean 'rounds'?"),
        ("ledger train.rounds=3 --owner me", "`fedveil ledger` reads runs, vault, policy"),
    ],
)
def test_what_was_meant_is_said(typed: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(*typed.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("fedveil: ")
    assert shown.err.count("\n") == 1
    assert answer in shown.err


TOKENS = [
    *commands.names(), "help", "--help", "--version", "-h", "--", "-", "=", "", "a", "a=", "=a", "train.rounds=3", "5",
    "-5", "quick", "--rounds", "--rounds=5", "--plain", "--plain=x", "--json", "--owner", "--resume", "a-run",
    "inspect", "study=quick", "é", "\udcff",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(TOKENS), st.text(max_size=5)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=300)
def test_whatever_is_typed_is_understood_or_refused(typed: list[str]) -> None:
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
        try:
            chosen = cli._chosen(typed)
        except (checks.UserError, SystemExit):
            return
    assert all("=" in word for word in chosen.words)


def test_a_file_may_look_like_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=1").mkdir()
    assert cli._chosen(["protect", "seed=1"]).images == Path("seed=1")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a path is text")
def test_a_path_that_is_no_text_can_be_said_and_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedveil.cli", "bundle", b"app \xff", "study=quick", b"vault.root=v\xff"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    assert b"app \\udcff/pyproject.toml" in done.stdout
    assert [path.name for path in Path(os.fsdecode(bytes(tmp_path) + b"/app \xff")).iterdir()] == ["pyproject.toml"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_message_is_wrapped_on_a_terminal_and_one_line_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["summary", "20260102-030405-dctdp-1f2e3d", f"runs.root=/a/{'long-' * 12}path/of runs"]
    assert cli.main(typed) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert len(line) > console.WIDTH
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli.main(["simulate", "evaluation.far=0.1,0.2"]) == 2
    shown = sys.stderr.getvalue()
    assert shown.count("\n") > 1
    assert max(map(len, shown.splitlines())) <= console.WIDTH


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\t'\"` ", exclude_categories=["Cc", "Zs", "Zl", "Zp"]),
                        min_size=1, max_size=100), max_size=30))  # fmt: skip
@settings(deadline=None)
def test_wrapping_loses_and_breaks_no_word(found: list[str]) -> None:
    lines = console.wrapped(" ".join(found)).splitlines()
    assert " ".join(lines).split() == " ".join(found).split()
    assert all(len(line) <= console.WIDTH or len(line.split()) == 1 for line in lines)


def test_wrapping_keeps_indentation_tables_and_what_may_be_copied() -> None:
    text = f"  - run 20260102-030405-dctdp-1f2e3d in 'my own runs' {'x ' * 12}goes on: `fedveil simulate --resume a`"
    assert console.wrapped(text).splitlines() == [
        "  - run 20260102-030405-dctdp-1f2e3d in 'my own runs' x x x x x x x x x x x x",
        "    goes on: `fedveil simulate --resume a`",
    ]
    table = f"{'':<26}{'dctdp':>14}\n\n{'a':<79}"
    assert console.wrapped(table) == table
    assert console.wrapped("an owner's word " * 8).count("\n") == 1
