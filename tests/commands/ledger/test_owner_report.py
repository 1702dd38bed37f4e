"""Whose total it is: a client's, a source's over all deals, and never the rows that stand for everybody alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedveil import cli
from fedveil.privacy.events import LocalRelease
from fedveil.privacy.ledger import Held, Ledger, Row

FIVE, EIGHT = LocalRelease("laplace", 5.0), LocalRelease("laplace", 8.0)


def vault(rows: Sequence[Row], held: dict[str, bytes]) -> None:
    with Ledger(Path(".fedveil/vault/ledger.sqlite")).write() as book:
        book.append(rows)
        for name, pictures in held.items():
            book.add_content(name, [Held(bytes([picture]) * 16, bytes([picture])) for picture in pictures])


def total(name: str) -> float:
    assert cli.main(["ledger", "--owner", name, "--json", "l.json"]) == 0
    found = json.loads(Path("l.json").read_text())
    assert found["rows"]
    return float(next(one["epsilon"] for one in found["statements"] if one["unit"] == "image"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("known", [False, True])
def test_what_was_spent_for_everybody_is_no_clients_total(known: bool, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a", "src-ab/d1/*", "spent", FIVE, mechanism="m")]
    rows += [Row("b", f"src-ab/d1/c{number}", "spent", EIGHT, mechanism="n") for number in (1, 2)]
    vault(rows, {"src-ab/d1/c1": b"12", "src-ab/d1/c2": b"34"} if known else {})
    assert [total(name) for name in ("src-ab/d1/c1", "src-ab/d1/c2", "src-ab")] == [13.0, 13.0, 13.0]
    assert total("src-ab/d1/c3") == 5.0  # took part in the first run alone
    capsys.readouterr()
    assert cli.main(["ledger", "--owner", "src-ab/d1/*"]) == 2
    said = capsys.readouterr().err
    assert "stands for every client" in said
    assert "src-ab/d1/c0001" in said


def test_a_source_whose_pictures_are_known_has_a_total(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a", "h-ab/a1/1", "spent", FIVE, mechanism="m"), Row("b", "h-ab/b2/2", "spent", EIGHT, mechanism="n")]
    vault(rows, {"h-ab/a1/1": b"12", "h-ab/b2/2": b"23"})
    assert total("h-ab") == 13.0  # the picture that both hold
    capsys.readouterr()
    assert cli.main(["ledger", "--owner", "h-abc"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_no_suggestion_is_refused_itself(capsys: pytest.CaptureFixture[str]) -> None:
    vault([Row("a", "src-ab/d1/*", "spent", FIVE, mechanism="m")], {})
    assert cli.main(["ledger", "--owner", "src-ab/d1"]) == 2
    assert "/*" not in capsys.readouterr().err
    assert total("src-ab/d1/c1") == total("src-ab") == 5.0
