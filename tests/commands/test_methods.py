"""`fedveil methods`: the listing, and the table of what protections cost."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedveil import cli
from fedveil.checks import UserError
from fedveil.commands import methods
from fedveil.configuration import plugins


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the table show three protections that are fitted in a moment."""
    names = plugins.names
    shown = ["dctdp", "none", "partialface"]
    monkeypatch.setattr(plugins, "names", lambda group: shown if group == "protection" else names(group))
    return shown


def test_the_listing_has_every_file_of_every_group_and_measures_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "measure", lambda *_: pytest.fail("the plain listing must stay instant"))
    assert cli.main(["methods"]) == 0
    text = capsys.readouterr().out
    assert "fedveil methods --cost" in text.splitlines()[-1]
    for group, package in plugins.GROUPS.items():
        folder = Path(plugins.importlib.import_module(package).__path__[0])
        files = {path.stem for path in folder.glob("[!_]*.py")} - {"base"}
        part = text.split(f"{group}=\n")[1].split("=\n")[0]
        listed = [line for line in part.splitlines() if line[:3].strip() and line.startswith("  ")]
        assert {line.split()[0] for line in listed} == files
        assert all(len(line.split()) > 3 for line in listed)


def test_the_table_has_a_row_per_protection_within_80_columns(
    capsys: pytest.CaptureFixture[str], three: list[str]
) -> None:
    assert cli.main(["methods", "--cost", "--size", "16"]) == 0
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert "16 x 16" in title
    assert header.split() == ["protection", "leaves", "payload", "extra", "parameters", "release"]
    assert [row.split()[0] for row in rows] == three
    for row in rows:
        name, shape, payload, unit, parameters, time, ms = row.split()
        protection = plugins.build("protection", name, {})
        assert shape == "x".join(map(str, protection.representation((16, 16))))
        assert float(payload) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(protection.payload((16, 16)), rel=0.01)
        assert re.fullmatch(r"[\d,]+", parameters)
        assert re.fullmatch(r"[\d,]+\.\d\d", time)
        assert ms == "ms"
    assert rows[1].split()[4] == "0"
    assert rows[2].split()[4] == "108"  # six subsets and six orders of nine
    assert max(map(len, [title, header, *rows])) <= 80
    assert len({len(row) for row in [header, *rows]}) == 1  # the columns stand under each other


def test_the_size_is_112_unless_said_and_a_protection_that_cannot_serve_it_says_why(three: list[str]) -> None:
    assert methods.SIZE == 112
    lines = list(methods.costs(20))
    assert lines[2].split() == ["dctdp", "-", "-", "-", "-"]
    assert lines[3].startswith("none")
    assert lines[-1].startswith("dctdp: Expected height=20")
    assert max(map(len, lines)) <= 80


def test_a_slow_release_is_timed_once_and_a_fast_one_without_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(durations: list[float]) -> tuple[float, int]:
        clock, released = [0.0], [0]

        def release(images: torch.Tensor, state: object, streams: list[object]) -> None:
            assert len(images) == len(streams) == 1
            clock[0] += durations[released[0]]
            released[0] += 1

        fake = SimpleNamespace(
            representation=lambda size: (3, *size), fit=lambda *_: {}, release=release, payload=lambda size: 1
        )
        monkeypatch.setattr(methods.time, "perf_counter", lambda: clock[0])
        return methods.measure(fake, 16).seconds, released[0]

    assert timed([100.0, 1.0]) == (100.0, 1)
    assert timed([0.5] + [0.01] * 7) == (pytest.approx(0.01), 8)


def test_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="size=0"):
        list(methods.costs(0))
    assert cli.main(["methods", "--size", "32"]) == 2
    assert "--cost" in capsys.readouterr().err
