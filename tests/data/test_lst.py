"""Lists of pictures, written here in both orders that are about, and every malformed line named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data.inspect import inspect
from fedveil.data.sources.folder import Folder, read_folder
from fedveil.data.sources.lst import Lst, read_lst
from fedveil.data.sources.procedural import draw_faces

LABELS = [2, 0, 0, 2, 1, 2]
FILES = ["ann/0.png", "ann/1.png", "bob/0.png", "bob/1.png", "cyd/0.png", "cyd/1.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    faces = draw_faces(3, 0, 3, 2, 32).images()
    for file, pixels in zip(FILES, faces, strict=True):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / file)
    return tmp_path


def mxnet(folder: Path, labels: list[int] = LABELS) -> Path:
    lines = [f"{i}\t{label:.6f}\t{file}\n" for i, (label, file) in enumerate(zip(labels, FILES, strict=True))]
    (folder / "train.lst").write_text("".join(lines))
    return folder / "train.lst"


def insightface(folder: Path, more: str = "") -> Path:
    lines = [f"1\t{file}\t{label}{more}\n" for label, file in zip(LABELS, FILES, strict=True)]
    (folder / "train.lst").write_text("".join(lines))
    return folder / "train.lst"


@pytest.mark.parametrize("written", [mxnet, insightface])
def test_both_orders_give_the_pictures_with_the_labels_of_the_list(folder: Path, written) -> None:
    faces = read_lst(str(written(folder)), 32)
    assert faces.labels.tolist() == LABELS
    assert faces.present_names == ("id0000", "id0001", "id0002")
    assert faces.records[:2] == ("id0002/ann/0.png", "id0000/ann/1.png")
    assert np.array_equal(faces.images(), read_folder(str(folder), 32).images())
    assert not faces.skipped


def test_boxes_landmarks_and_further_labels_are_passed_over(folder: Path) -> None:
    plain = read_lst(str(insightface(folder)), 32)
    for more in ("\t0\t0\t30\t30", "\t0\t0\t30\t30" + "\t1.5" * 10):
        assert read_lst(str(insightface(folder, more)), 32).records == plain.records
    mxnet(folder).write_text("".join(f"{i}\t{LABELS[i]}\t1\t{file}\r\n" for i, file in enumerate(FILES)))
    assert read_lst(str(folder / "train.lst"), 32).records == plain.records


def test_a_split_is_made_as_of_any_other_source(folder: Path) -> None:
    source = Lst(path=str(mxnet(folder)), size=32, evaluation="procedural", min_images=2, pairs=10)
    split = source.load(1)
    assert split.train.present_names == ("id0000", "id0002")
    assert "train: 5 images of 2 people" in str(inspect("lst", source, 1))
    assert source.whole(1).labels.tolist() == LABELS
    with pytest.raises(checks.UserError, match="declared_public_evaluation"):
        Lst(path=str(folder / "train.lst"), size=32).load(1)


def test_lists_of_a_folder_and_the_folder_are_one_account(folder: Path) -> None:
    mxnet(folder)
    (folder / "other.lst").write_text("1\tann/0.png\t7\n1\tann/1.png\t7\n")
    places = {Lst(path=str(folder / name)).place(1) for name in ("train.lst", "other.lst")}
    assert places == {Folder(root=str(folder)).place(1)}


def test_pictures_of_nobody_are_left_out_and_said(folder: Path) -> None:
    faces = read_lst(str(mxnet(folder, [0, -1, 0, -1, 1, 1])), 32)
    assert faces.labels.tolist() == [0, 0, 1, 1]
    assert faces.notes[0].startswith("2 pictures are of nobody")


def test_a_picture_that_is_missing_or_broken_keeps_its_place(folder: Path) -> None:
    path = insightface(folder)
    (folder / "ann/1.png").unlink()
    (folder / "cyd/0.png").write_bytes(b"no picture")
    faces = read_lst(str(path), 32)
    assert np.flatnonzero(~faces.readable).tolist() == [1, 4]
    assert [problem.file for problem in faces.skipped] == ["id0000/ann/1.png", "id0001/cyd/0.png"]
    for file in FILES:
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(checks.UserError, match=r"train.lst' holds no picture \(.*missing"):
        read_lst(str(path), 32)


MALFORMED = {
    "two columns": ("0\t1\ta.jpg\n\n1\ta.jpg\n", "line 3: expected NUMBER, LABEL, PATH or ALIGNED, PATH, LABEL"),
    "commas": ("0,1,a.jpg\n", "line 1: expected NUMBER, LABEL, PATH"),
    "half a person": ("0\t1.5\ta.jpg\n", r"line 1: expected a whole number below 16777216 for a label, got '1\.5'"),
    "too large": ("0\t16777216\ta.jpg\n", "line 1: expected a whole number below"),
    "infinite": ("0\t1\ta.jpg\n1\tinf\tb.jpg\n", "line 2: expected labels between the number and the path, got 'inf'"),
    "no number": ("first\t1\ta.jpg\n", "line 1: expected a whole number in the first column, got 'first'"),
    "the other order": ("0\t1\ta.jpg\n1\tb.jpg\t2\n", "line 2: expected labels between the number and the path"),
    "a word for a label": ("1\ta.jpg\tann\n", "line 1: expected a whole number below 16777216 for a label, got 'ann'"),
    "underscores": ("1\ta.jpg\t1_0\n", "line 1: expected a whole number below"),
    "neither flag": ("2\ta.jpg\t1\n", r"line 1: expected 1 \(aligned\) or 0 in the first column, got '2'"),
    "half a box": ("1\ta.jpg\t1\t5\t5\n", "line 1: expected ALIGNED, PATH, LABEL, and no more than a box"),
    "not aligned": ("1\ta.jpg\t1\n0\tb.jpg\t1\n", r"line 2: 'b.jpg' is not aligned .* \(fedveil data align\)"),
    "twice": ("1\ta.jpg\t1\n1\tb.jpg\t1\n1\t./a.jpg\t2\n", "lines 1 and 3: 'a.jpg' is there twice"),
    "absolute": ("1\t/raid/a.jpg\t1\n", r"line 1: expected a path below the folder of train.lst .*, got '/raid/a.jpg'"),
    "outside": ("1\tb/../../a.jpg\t1\n", "line 1: expected a path below the folder"),
    "of another system": ("1\tC:\\\\faces\\\\a.jpg\t1\n", "line 1: expected a path below the folder"),
    "escapes": ("1\ta\x1b[2J.jpg\t1\n", r"line 1: expected a path below the folder of .*, got 'a\\x1b\[2J.jpg'"),
    "no path": ("0\t1\t\n", "line 1: expected a path below the folder"),
    "bytes": (b"0\t1\ta.jpg\n1\t1\t\xff.jpg\n", "line 2: expected text in UTF-8"),
    "endless": ("0\t1\t" + "a" * 20_000, "line 1: expected fewer than 10000 bytes"),
    "empty": ("\n", "lists no picture of anybody"),
    "nobody": ("0\t-1\ta.jpg\n", "lists no picture of anybody"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_list_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    content, said = MALFORMED[case]
    path = tmp_path / "train.lst"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(checks.UserError, match=f"{re.escape(str(path))}(, | ){said}"):
        read_lst(str(path), 32)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=r"is a folder; expected a \.lst"):
        read_lst(str(tmp_path), 32)
    with pytest.raises(checks.UserError, match=r"is missing; expected a \.lst"):
        Lst(path=str(tmp_path / "no.lst"), evaluation="procedural").load(1)
    with pytest.raises(checks.UserError, match="where are the pictures"):
        Lst(evaluation="procedural").load(1)
