from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fedveil import checks
from fedveil.data.faces import images_per_identity
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
    assert images_per_identity(split.train).tolist() == [3, 2, 0]
    text = str(inspect("folder", Folder(root=str(tmp_path), size=32, evaluation="procedural", pairs=20), 1))
    assert "6 files or people left out" in text
    assert "fewer than min_images=2" in text


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
