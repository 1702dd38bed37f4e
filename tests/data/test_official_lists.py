from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedveil import checks
from fedveil.data.official_lists import read_folds, read_pairs, read_people

PLACE = {f"{name}_{i:04d}": 10 * who + i for who, name in enumerate(["Ann", "Bob", "Cem", "Dee"]) for i in range(1, 5)}
ROWS = ["Ann 1 2", "Bob 3 4", "Ann 1 Bob 2", "Ann 3 Bob 4", "Cem 1 2", "Dee 1 4", "Cem 4 Dee 2", "Dee 1 Cem 1"]
PAIRS = "\n".join(["2 2", *ROWS]) + "\n"
FOLDS = "2\n2\nAnn 4\nBob 4\n2\nCem 4\nDee 4\n"


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FORMS = {
    "plain": lambda text: text.encode(),
    "tabs": lambda text: text.replace(" ", "\t").encode(),
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old Macintosh": lambda text: text.replace("\n", "\r").encode(),
    "blanks": lambda text: text.replace("\n", "  \n").encode() + b"\n \n\t\n\n",
    "no last line end": lambda text: text.rstrip().encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_list_is_read(form: str, tmp_path: Path) -> None:
    pairs = read_pairs(put(tmp_path / "pairs.txt", FORMS[form](PAIRS)), PLACE, folded=True)
    assert pairs.left.tolist() == [1, 13, 1, 3, 21, 31, 24, 31]
    assert pairs.right.tolist() == [2, 14, 12, 14, 22, 34, 32, 21]
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4
    dev = "\n".join(["4", *ROWS]) + "\n"
    assert read_pairs(put(tmp_path / "dev.txt", FORMS[form](dev)), PLACE, folded=False).folds.tolist() == [0] * 8
    assert read_folds(put(tmp_path / "people.txt", FORMS[form](FOLDS))) == [["Ann", "Bob"], ["Cem", "Dee"]]
    assert read_people(put(tmp_path / "dev_people.txt", FORMS[form]("2\nAnn 4\nBob 1\n"))) == ["Ann", "Bob"]


def test_names_with_blanks_and_accents(tmp_path: Path) -> None:
    place = {"Ann Lee_0001": 0, "Ann Lee_0002": 1, "Ren\u00e9_0001": 2}
    text = "1\t1\nAnn Lee\t1\t2\nAnn Lee\t1\tRene\u0301\t1\n"
    assert read_pairs(put(tmp_path / "pairs.txt", text), place, folded=True).right.tolist() == [1, 2]


def changed(line: int, text: str | None) -> str:
    rows = PAIRS.splitlines()
    if text is None:
        del rows[line - 1]
    else:
        rows[line - 1] = text
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.txt is empty; expected the header FOLDS N"),
        (changed(1, None), "line 1: expected the header FOLDS N, such as `10 300`.*got 'Ann 1 2'"),
        (changed(1, "2"), "line 1: expected the header FOLDS N.*got '2'"),
        (changed(1, "2 x"), "line 1: expected the header"),
        (changed(1, "0 2"), "line 1: expected the header"),
        (changed(1, "-2 2"), "line 1: expected the header"),
        (changed(1, "2 99999999999"), "line 1: expected the header"),
        (
            changed(1, "3 2"),
            "ends after line 9 with 8 pairs; its header promises 12 pairs, 3 folds of 2 and 2: it is cut",
        ),
        (changed(9, None), "ends after line 8 with 7 pairs; its header promises 8 pairs"),
        (PAIRS + "Ann 2 3\n", "line 10: expected the end of the list after 8 pairs, 2 folds of 2 and 2, got 'Ann 2 3'"),
        (changed(3, "Bob"), "line 3: expected a pair, NAME I J or NAME I OTHER J, got 'Bob'"),
        (changed(3, "Bob 1 2 3 4"), "line 3: expected a pair"),
        (changed(3, "Bob one 2"), "line 3: expected the pictures' numbers from 1"),
        (changed(3, "Bob 0 2"), "line 3: expected the pictures' numbers from 1"),
        (changed(3, "Bob -1 2"), "line 3: expected the pictures' numbers from 1"),
        (changed(3, "Bob 1.0 2"), "line 3: expected the pictures' numbers from 1"),
        (changed(3, "Bob \u0661 2"), "line 3: expected the pictures' numbers from 1"),
        (changed(3, "Bob 1_0 2"), "line 3: expected the pictures' numbers from 1"),
        (changed(3, "Bob 3 5"), "line 3: expected a picture that is there, not 'Bob_0005'"),
        (changed(3, "Eve 3 4"), "line 3: expected a picture that is there, not 'Eve_0003'"),
        (changed(3, "Bob 3 3"), "line 3: expected two pictures, not one twice"),
        (changed(4, "Ann 1 Ann 2"), "line 4: expected two people, or NAME I J for one"),
        (changed(3, "Ann 2 1"), "line 3: expected a pair of its own, not that of line 2 again"),
        (
            changed(3, "Ann 1 Bob 3"),
            "lines 2 to 5: expected 2 pairs of one person and as many of two in fold 1, got 1 and 3",
        ),
    ],
)
def test_a_wrong_list_of_pairs_names_the_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=message) as caught:
        read_pairs(put(tmp_path / "pairs.txt", text), PLACE, folded=True)
    assert "pairs.txt" in str(caught.value)


def test_development_pairs_have_another_header(tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=r"line 1: expected the header N alone, such as `500`.*got '2 2'"):
        read_pairs(put(tmp_path / "pairs.txt", PAIRS), PLACE, folded=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends before its first line, where the number of folds alone was expected"),
        ("Ann 4\nBob 4\n", "line 1: expected the number of folds alone, got 'Ann 4'"),
        (FOLDS.replace("2\nCem", "3\nCem"), "ends after line 7 with 2 of the 3 people of fold 2 of 2"),
        (FOLDS.replace("2\n2\nAnn", "2\n3\nAnn"), "line 5: expected person 3 of the 3 of fold 1 of 2, got '2'"),
        (FOLDS.replace("2\n2\nAnn", "3\n2\nAnn"), "ends after line 7, where the number of people of fold 3 of 3"),
        (FOLDS + "Eve 1\n", "line 8: expected the end of the list after 2 folds, got 'Eve 1'"),
        (FOLDS.replace("Bob 4", "Bob four"), "line 4: expected a person of fold 1 of 2, NAME and a number of pictures"),
        (FOLDS.replace("Dee", "Ann"), "line 7: expected everybody once, not the person of line 3 again"),
    ],
)
def test_a_wrong_list_of_people_names_the_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=message):
        read_folds(put(tmp_path / "people.txt", text))


def test_wrong_development_people_name_the_line(tmp_path: Path) -> None:
    for text, message in (
        ("3\nAnn 1\nBob 2\n", "with 2 of the 3 people"),
        ("1\nAnn 1\nBob 2\n", "line 3: expected the end"),
    ):
        with pytest.raises(checks.UserError, match=message):
            read_people(put(tmp_path / "people.txt", text))


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=r"pairs\.txt is no UTF-8 text .* at byte 0\); save it"):
        read_pairs(put(tmp_path / "pairs.txt", PAIRS.encode("utf-16")), PLACE, folded=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(checks.UserError, match="pipe is a named pipe"):
        read_folds(tmp_path / "pipe")
