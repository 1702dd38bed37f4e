from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data.caps import images_per_identity
from fedveil.data.inspect import inspect
from fedveil.data.sources.folder import Folder, read_folder
from fedveil.data.sources.procedural import draw_faces


def write_people(root: Path, counts: list[int], size: int = 32) -> None:
    faces = draw_faces(3, 0, len(counts), max(counts), size)
    for label, count in enumerate(counts):
        (root / f"person{label}").mkdir(parents=True)
        for i in range(count):
            pixels = faces.images([label * max(counts) + i])[0].transpose(1, 2, 0)
            Image.fromarray(pixels).save(root / f"person{label}" / f"{i}.png")


def test_held_out_people_do_not_train_and_the_choice_is_seeded(tmp_path: Path) -> None:
    write_people(tmp_path, [3] * 12)
    source = Folder(root=str(tmp_path), size=32, declared_public_evaluation=True, evaluation_fraction=0.25, pairs=10)
    split = source.load(1)
    held = set(split.evaluation.faces.present_names)
    assert len(held) == 3
    assert held.isdisjoint(split.train.present_names)
    assert len(split.train) == 27
    assert split.evaluation.declared_public
    assert split.public.synthetic
    assert not split.public_benchmark
    assert not split.train.public
    assert source.load(1).evaluation.faces.present_names == split.evaluation.faces.present_names
    assert any(set(source.load(seed).evaluation.faces.present_names) != held for seed in (2, 3, 4))


def test_undeclared_evaluation_is_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=r"declared_public_evaluation=False.*evaluation=procedural"):
        Folder(root=str(tmp_path / "missing")).load(1)
    write_people(tmp_path, [2, 2])
    split = Folder(root=str(tmp_path), size=32, evaluation="procedural", pairs=20).load(1)
    assert split.evaluation.faces.synthetic
    assert split.train.present_names == ("person0", "person1")


def test_broken_and_foreign_files_are_listed_not_used(tmp_path: Path) -> None:
    write_people(tmp_path, [3, 2, 1])
    good = (tmp_path / "person0" / "0.png").read_bytes()
    (tmp_path / "person0" / "cut.png").write_bytes(good[:200])
    (tmp_path / "person0" / "note.txt").write_text("hello")
    (tmp_path / "person1" / "fake.jpg").write_text("hello")
    (tmp_path / "person1" / "deeper").mkdir()
    (tmp_path / "person1" / ".DS_Store").write_text("x")
    (tmp_path / "readme.md").write_text("x")
    split = Folder(root=str(tmp_path), size=32, evaluation="procedural", pairs=20).load(1)
    listed = {problem.file for problem in split.train.skipped}
    assert listed == {
        "person0/cut.png", "person0/note.txt", "person1/fake.jpg", "person1/deeper", "readme.md", "person2",
    }  # fmt: skip
    assert images_per_identity(split.train).tolist() == [4, 3, 0]  # a broken picture keeps its place
    assert np.flatnonzero(~split.train.readable).tolist() == [3, 6]
    text = str(inspect("folder", Folder(root=str(tmp_path), size=32, evaluation="procedural", pairs=20), 1))
    assert "6 files or people left out" in text
    assert "fewer than min_images=2" in text
    assert "train: 5 images of 2 people" in text


def test_odd_files_neither_hang_nor_count_as_pictures(tmp_path: Path) -> None:
    write_people(tmp_path, [2, 2])
    os.mkfifo(tmp_path / "person0" / "pipe.png")
    os.mkfifo(tmp_path / "person0" / "pipe.txt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "person1" / "nowhere.png").symlink_to("nowhere")
    (tmp_path / "person1" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "person1" / "linked.png").symlink_to(tmp_path / "person0" / "0.png")  # a link to a picture is one
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "person1" / "bell\a.png").write_bytes(b"x")
    faces = read_folder(str(tmp_path), 32)
    assert sorted(map(str, faces.skipped)) == [
        "circle: a link that leads in a circle, not inside a person's folder",
        r"person0/pipe.png: a named pipe",
        "person0/pipe.txt: not a picture ('.txt')",
        r"person1/bell\x07.png: its name holds control characters or bytes that are no text; rename it",
        "person1/device.png: a device",
        "person1/nowhere.png: a link that leads nowhere",
        "pipe: a named pipe, not inside a person's folder",
    ]
    names = {"person0": ["0", "1", "pipe"], "person1": ["0", "1", "device", "linked", "nowhere"]}
    assert faces.records == tuple(f"{person}/{file}.png" for person, files in names.items() for file in files)
    assert faces.subset(faces.readable).images().shape[0] == 5


def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for root, words in ((tmp_path / "pipe", "a named pipe"), ("~no_such_user/x", "missing"), ("a\0b", "no name that")):
        with pytest.raises(checks.UserError, match=f"is {words}.*not a folder"):
            read_folder(str(root), 32)


@pytest.mark.parametrize(
    ("one", "other"), [("Ann", "ann"), ("caf\u00e9", "cafe\u0301"), ("Stra\u00dfe", "STRASSE"), ("a b", "a\u00a0b")]
)
def test_people_whose_names_look_alike_are_refused(one: str, other: str, tmp_path: Path) -> None:
    write_people(tmp_path, [2, 2])
    (tmp_path / "person0").rename(tmp_path / one)
    (tmp_path / "person1").rename(tmp_path / other)
    with pytest.raises(checks.UserError, match="2 names of people are equal but for case") as caught:
        read_folder(str(tmp_path), 32)
    assert ascii(one) in str(caught.value)
    assert ascii(other) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["line\nbreak", "\x1b[2Jclear", "turned\u202eback", os.fsdecode(b"latin\xe9"), "back\\slash"]
)
def test_people_whose_names_do_harm_are_refused(name: str, tmp_path: Path) -> None:
    write_people(tmp_path, [2, 2])
    (tmp_path / "person0").rename(tmp_path / name)
    with pytest.raises(checks.UserError, match="1 names of people cannot be used") as caught:
        read_folder(str(tmp_path), 32)
    assert str(caught.value).isprintable()
    assert ascii(name) in str(caught.value)


def test_pictures_whose_names_look_alike_stay_apart_and_are_noted(tmp_path: Path) -> None:
    write_people(tmp_path, [2, 2])
    for name in ("a.png", "A.PNG", "\u00e9.png", "e\u0301.png"):
        (tmp_path / "person0" / name).write_bytes((tmp_path / "person0" / "0.png").read_bytes())
    faces = read_folder(str(tmp_path), 32)
    assert len(faces) == len(set(faces.records)) == 8
    (note,) = faces.notes
    assert note.startswith("4 pictures' names are equal but for case or accents, kept apart: 'person0/A.PNG'")


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may read everything, so the refusal is played."""
    write_people(tmp_path, [2, 2])
    given = os.open

    def refuse(path: Path, *more: int) -> int:
        if path == tmp_path / "person1" / "0.png":
            raise PermissionError(13, "Permission denied", str(path))
        return given(path, *more)

    monkeypatch.setattr(os, "open", refuse)
    faces = read_folder(str(tmp_path), 32)
    assert list(map(str, faces.skipped)) == ["person1/0.png: not readable (Permission denied)"]
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: refuse_listing() if self.name == "person0" else listed(self))

    def refuse_listing() -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    with pytest.raises(checks.UserError, match=r"person0' is not readable \(Permission denied\)"):
        read_folder(str(tmp_path), 32)


def test_the_first_thing_to_say_is_that_the_root_is_missing() -> None:
    with pytest.raises(checks.UserError, match=r"data\.root='' says nothing.*Write data\.root=PLACE.*ROOT/PERSON"):
        Folder().load(1)


def test_sizes_and_grey_are_unified_and_counted(tmp_path: Path) -> None:
    write_people(tmp_path, [2, 2], size=32)
    Image.new("L", (50, 70), 99).save(tmp_path / "person0" / "grey.jpg")
    faces = read_folder(str(tmp_path), 40)
    assert faces.images().shape == (5, 3, 40, 40)
    assert "5 of 5 images resized to 40x40 from 32x32 (4), 50x70 (1)" in faces.notes
    assert "1 of 5 images are grey, copied to three channels" in faces.notes
    assert faces.keys[0].startswith(str((tmp_path / "person0" / "0.png").resolve()))
    assert len(set(faces.keys)) == 5


@pytest.mark.parametrize("make", ["missing", "empty", "only_text", "unset"])
def test_missing_or_empty_root_names_the_path_and_the_layout(make: str, tmp_path: Path) -> None:
    root = "" if make == "unset" else str(tmp_path / "faces")
    if make in ("empty", "only_text"):
        (tmp_path / "faces" / "ann").mkdir(parents=True)
    if make == "only_text":
        (tmp_path / "faces" / "ann" / "a.jpg").write_text("no picture")
    with pytest.raises(checks.UserError, match=r"ROOT/PERSON/PICTURE.jpg") as caught:
        Folder(root=root, declared_public_evaluation=True).load(1)
    assert repr(root) in str(caught.value)


def test_too_few_people_or_images_are_refused(tmp_path: Path) -> None:
    write_people(tmp_path, [2, 2])
    with pytest.raises(checks.UserError, match=r"of 2 people leaves nobody to train on"):
        Folder(root=str(tmp_path), size=32, declared_public_evaluation=True).load(1)
    with pytest.raises(checks.UserError, match=r"min_images=5 .*2 people have fewer"):
        Folder(root=str(tmp_path), size=32, min_images=5, evaluation="procedural").load(1)
    with pytest.raises(checks.UserError, match="size=33"):
        Folder(size=33)
    with pytest.raises(checks.UserError, match="Did you mean 'held_out'"):
        Folder(evaluation="held_ou")  # type: ignore[arg-type]
