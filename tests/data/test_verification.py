"""Files of verification pairs: real layouts built here from drawn faces, and every damage named."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data import decode, pickled, verification
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.stores import Unreadable
from fedveil.federation.federation import Federation

FACES = draw_faces(3, 0, 12, 4, 48)
PIXELS = FACES.images().transpose(0, 2, 3, 1)


def encoded(image: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[image]).save(buffer, kind)
    return buffer.getvalue()


def python_2(pictures: list[bytes], answers: list[bool]) -> bytes:
    """Return what Python 2's cPickle wrote with its highest protocol: strings are strings of bytes."""
    parts, memo = [b"\x80\x02]q\x00("], 1
    for picture in pictures:
        short = len(picture) < 256
        parts.append(
            (b"U" + struct.pack("<B", len(picture)) if short else b"T" + struct.pack("<i", len(picture))) + picture
        )
        parts.append(b"q" + struct.pack("<B", memo) if memo < 256 else b"r" + struct.pack("<I", memo))
        memo += 1
    parts.append(b"e]r" + struct.pack("<I", memo) + b"(" + b"".join(b"\x88" if a else b"\x89" for a in answers) + b"e")
    return b"".join([*parts, b"\x86q\x00."])


def pairs() -> list[tuple[int, int, bool]]:
    """Return 40 pairs (left, right, same) of drawn pictures in ten folds of two and two, in the order of LFW's list."""
    found = []
    for fold in range(10):
        for k in (2 * fold, 2 * fold + 1):
            found.append((4 * (k % 12) + k // 12, 4 * (k % 12) + k // 12 + 1, True))
        for k in (2 * fold, 2 * fold + 1):
            found.append((4 * (k % 12), 4 * ((k + 5) % 12) + 1 + k // 12, False))
    return found


def lists(kind: str = "JPEG") -> tuple[list[bytes], list[bool]]:
    listed = pairs()
    return [encoded(i, kind) for left, right, _ in listed for i in (left, right)], [same for *_, same in listed]


def read(path: Path, size: int = 32, training: str = "") -> Any:
    return verification.read(str(path), size, True, training)


def as_arrays(pictures: list[bytes], answers: list[bool]) -> Any:
    return [np.frombuffer(picture, np.uint8) for picture in pictures], np.array(answers)


LAYOUTS = {
    "python 2": lambda pictures, answers: python_2(pictures, answers),
    "protocol 2": lambda pictures, answers: pickle.dumps((pictures, answers), 2),
    "protocol 4": lambda pictures, answers: pickle.dumps((pictures, answers), 4),
    "protocol 5": lambda pictures, answers: pickle.dumps([pictures, answers], 5),
    "numbers": lambda pictures, answers: pickle.dumps((pictures, [*map(int, answers)]), 4),
    "arrays": lambda pictures, answers: pickle.dumps(as_arrays(pictures, answers), 4),
    "numpy truth values": lambda pictures, answers: pickle.dumps((pictures, [*map(np.bool_, answers)]), 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_real_layout_gives_the_pairs_that_were_packed(layout: str, tmp_path: Path) -> None:
    pictures, answers = lists()
    (tmp_path / "lfw.bin").write_bytes(LAYOUTS[layout](pictures, answers))
    found = read(tmp_path / "lfw.bin")
    assert found.same.tolist() == answers
    assert found.declared_public
    for side, offset in ((found.left, 0), (found.right, 1)):
        wanted = np.stack([decode.decode(picture, 32).pixels for picture in pictures[offset::2]])
        assert np.array_equal(found.faces.images(side), wanted)
    # Folds are the published ones, ten runs in the file's order; equal pictures are one.
    assert found.folds.tolist() == np.repeat(np.arange(10), 4).tolist()
    assert len(found.faces) == len({i for left, right, _ in pairs() for i in (left, right)})
    assert len(set(found.faces.records)) == len(found.faces)
    # Who is who follows from the pairs, and no two people of them are taken for one.
    people = {i: found.faces.labels[place] for (i, _, _), place in zip(pairs(), found.left, strict=True)}
    assert all((people[a] == people[b]) <= (a // 4 == b // 4) for a in people for b in people)


def test_folds_are_those_of_the_published_script(tmp_path: Path) -> None:
    from sklearn.model_selection import KFold

    pictures, answers = lists()
    (tmp_path / "odd.bin").write_bytes(pickle.dumps((pictures[:74], answers[:37])))
    folds = read(tmp_path / "odd.bin").folds
    for number, (_, held) in enumerate(KFold(10, shuffle=False).split(np.zeros(37))):
        assert np.flatnonzero(folds == number).tolist() == held.tolist()


def test_contradicting_pairs_stand_alone(tmp_path: Path) -> None:
    a, b, c = encoded(0), encoded(1), encoded(4)
    (tmp_path / "odd.bin").write_bytes(pickle.dumps(([a, b, a, b, a, c], [True, False, False])))
    found = read(tmp_path / "odd.bin")
    assert found.same.tolist() == [True, False, False]
    assert len(found.faces) == 6
    assert len(set(found.faces.labels[found.left])) == 3
    assert "contradict" in found.faces.notes[0]


def test_python_2_strings_are_what_python_reads() -> None:
    data = python_2(*lists())
    pictures, answers = pickle.loads(data, encoding="bytes")  # noqa: S301 - written above
    found = pickled.read(memoryview(data))
    assert ([bytes(picture) for picture in found[0]], found[1]) == (pictures, answers)


def test_a_program_leaves_no_trace(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was here"),)

    pictures, answers = lists()
    data = pickle.dumps((pictures, [*answers, Program()]))
    (tmp_path / "evil.bin").write_bytes(data)
    with pytest.raises(
        checks.UserError,
        match=r"evil\.bin is not read: .*it names 'posix'.'mkdir': it is a program.*nothing of it was run",
    ):
        read(tmp_path / "evil.bin")
    assert not (tmp_path / "was here").exists()
    pickle.loads(data)  # noqa: S301 - what Python's own reader does with the same bytes
    assert (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, a: (p, a, a), "no two lists"),
        (lambda p, a: {"p": 1}, "instruction 0x7d"),
        (lambda p, a: (p[:-1], a), "79 pictures for 40 pairs, which need 80"),
        (lambda p, a: (p, [*a[:-1], 2]), "1 of 40 answers are no truth values"),
        (lambda p, a: (p, [*a[:-1], "1"]), "1 of 40 answers"),
        (lambda p, a: (p, []), "0 of 0 answers"),
        (lambda p, a: ([*p[:-1], b""], a), "picture 79 is no encoded picture"),
        (lambda p, a: ([*p[:-1], "text"], a), "picture 79 is no encoded picture"),
        (lambda p, a: ([*p[:-1], np.zeros(9)], a), "picture 79 is no encoded picture"),
        (lambda p, a: (p, [True] * 40), "all 40 pairs are of one person"),
        (lambda p, a: (7, a), "one of its two parts is no list"),
    ],
)
def test_other_lists_are_named(change: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(pickle.dumps(change(*lists()), 4))
    with pytest.raises(checks.UserError, match=rf"odd\.bin is not read: .*{re.escape(message)}"):
        read(tmp_path / "odd.bin")


def test_a_picture_that_is_none_is_named_when_it_is_read(tmp_path: Path) -> None:
    pictures, answers = lists()
    pictures[7] = b"no picture"
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((pictures, answers)))
    with pytest.raises(Unreadable, match=r"lfw\.bin: lfw/picture 7: cannot be decoded .*a benchmark is whole"):
        read(tmp_path / "lfw.bin").faces.images()


# --- CSV


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listed")
    for i in range(48):
        (folder / f"{i}.png").write_bytes(encoded(i, "PNG"))
    return folder


def lines() -> Iterator[list[str]]:
    for number, (left, right, same) in enumerate(pairs()):
        yield [f"{left}.png", f"{right}.png", str(int(same)), str(number // 4)]


def write(folder: Path, header: str, rows: list[list[str]], **how: Any) -> Path:
    path = folder / "mine.csv"
    path.write_text("\n".join([header, *map(",".join, rows)]) + "\n", **how)
    return path


def test_a_csv_gives_its_pairs_and_folds(listed: Path) -> None:
    found = read(write(listed, "left,right,same,fold", [*lines()]), 48)
    assert [*zip(found.same.tolist(), found.folds.tolist(), strict=True)] == [
        (same, number // 4) for number, (*_, same) in enumerate(pairs())
    ]
    for side, column in ((found.left, 0), (found.right, 1)):
        wanted = PIXELS[[pair[column] for pair in pairs()]].transpose(0, 3, 1, 2)
        assert np.array_equal(found.faces.images(side), wanted)


def test_columns_may_stand_in_any_order_and_folds_be_left_out(listed: Path) -> None:
    words = {"1": "Same", "0": "false"}
    rows = [[words[same], f'"{right}"', "", left] for left, right, same, _ in lines()]
    found = read(write(listed, "Same, right ,note,LEFT", [*rows, ["", "", "", ""]], encoding="utf-8-sig"))
    assert found.same.tolist() == [same for *_, same in pairs()]
    labels = found.faces.labels
    owner: dict[int, int] = {}
    for a, b, fold in zip(labels[found.left], labels[found.right], found.folds, strict=True):
        assert owner.setdefault(int(a), int(fold)) == owner.setdefault(int(b), int(fold)) == fold


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("left,right,fold", None, r"lacks the columns \['same'\] in its first line, which has"),
        ("left,right,same,same", None, r"names the columns \['same'\] twice"),
        ("left,right,same,fold", ["0.png", "1.png", "1"], "line 42: expected 4 fields as in the header, got 3"),
        ("left,right,same,fold", ["0.png", "1.png", "maybe", "0"], "line 42: expected same to be 1 or 0.*'maybe'"),
        ("left,right,same,fold", ["0.png", "1.png", "1", "-1"], "line 42: expected fold to be a whole number.*'-1'"),
        ("left,right,same,fold", ["0.png", "x.png", "1", "0"], "line 42: .*'x.png' is missing"),
        ("left,right,same,fold", ["0.png", "", "1", "0"], "line 42: expected the name of a picture, got ''"),
        ("left,right,same,fold", ["0.png", ".", "1", "0"], r"line 42: .*'\.' is a folder"),
        ("left,right,same,fold", ["0.png", "0.png", "1", "0"], "line 42: expected two pictures, not '0.png' twice"),
        ("left,right,same,fold", ["1.png", "0.png", "1", "0"], "line 42: .*, not that of line 2 again"),
        ("left,right,same,fold", ["0.png", '"1.png', "1", "0"], "line 4[23]: expected fields with commas"),
    ],
)  # fmt: skip
def test_a_damaged_csv_names_line_and_reason(header: str, row: list[str] | None, message: str, listed: Path) -> None:
    rows = [line[: len(header.split(","))] for line in lines()] + ([row] if row else [])
    with pytest.raises(checks.UserError, match=rf"mine\.csv,? {message}"):
        read(write(listed, header, rows))


def test_pairs_that_contradict_each_other_are_refused(listed: Path) -> None:
    rows = [["0.png", "1.png", "1"], ["1.png", "2.png", "1"], ["0.png", "4.png", "0"], ["0.png", "2.png", "0"]]
    with pytest.raises(checks.UserError, match=r"line 5: expected pairs that agree"):
        read(write(listed, "left,right,same", rows))


def test_no_picture_of_a_csv_may_lie_among_those_that_train(listed: Path) -> None:
    path = write(listed, "left,right,same,fold", [*lines()])
    with pytest.raises(checks.UserError, match=r"line 2: expected a picture of somebody who does not train"):
        read(path, training=os.path.realpath(listed))
    assert len(read(path, training=f"{os.path.realpath(listed)}-other"))


def test_other_texts_are_named(listed: Path) -> None:
    (listed / "mine.csv").write_bytes(b"left,right,same\n\xff\xfe,b,1\n")
    with pytest.raises(checks.UserError, match=r"mine\.csv is no UTF-8 text"):
        read(listed / "mine.csv")
    with pytest.raises(checks.UserError, match="holds no pair"):
        read(write(listed, "left,right,same", []))
    with pytest.raises(checks.UserError, match="all 1 pairs are of one person"):
        read(write(listed, "left,right,same", [["0.png", "1.png", "1"]]))


# --- both


@pytest.mark.parametrize("suffix", verification.kinds())
def test_a_place_that_holds_no_pairs_is_named(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for name, found in ((f"none{suffix}", "missing"), (f"pipe{suffix}", "a named pipe")):
        with pytest.raises(checks.UserError, match=rf"evaluation\.pairs='.*{name}' is {found}"):
            read(tmp_path / name)
    (tmp_path / f"some{suffix}").write_bytes(b"")
    with pytest.raises(checks.UserError, match=r"nobody has said .*evaluation\.pairs_are_public=true"):
        verification.read(str(tmp_path / f"some{suffix}"), 32, False)
    with pytest.raises(checks.UserError, match=rf"some\{suffix}"):
        read(tmp_path / f"some{suffix}")
    with pytest.raises(checks.UserError, match=r"is no file of verification pairs: expected \.bin or \.csv"):
        read(tmp_path / "pairs.txt")


def test_a_federation_evaluates_on_the_file_and_tells_no_owner(tmp_path: Path) -> None:
    from fedveil.federation import instruction

    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(lists()))
    words = ["protection=none", f"evaluation.pairs={tmp_path / 'lfw.bin'}"]
    with pytest.raises(checks.UserError, match="pairs_are_public=true"):
        Federation.of(words).check()
    federation = Federation.of([*words, "evaluation.pairs_are_public=true"])
    assert len(federation.pairs) == 40
    assert federation.pairs.faces.size == federation.size
    sent = instruction.to_wire(federation.settings)
    assert "lfw.bin" not in sent
    assert instruction.from_wire(sent).settings.evaluation.pairs is None
    own = ["evaluation.pairs=here.bin", "evaluation.pairs_are_public=true"]
    assert instruction.completed(sent, own).settings.evaluation.pairs == "here.bin"
