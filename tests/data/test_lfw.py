from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data.caps import images_per_identity
from fedveil.data.sources.lfw import Lfw
from fedveil.data.sources.procedural import draw_faces

PACKED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "lfw112_jpeg.npz"
PEOPLE, IMAGES, FOLDS = 40, 5, 10  # four people in each fold
NAMES = [f"Person_{i:02d}" for i in range(PEOPLE)]


def jpegs() -> list[bytes]:
    parts = []
    for image in draw_faces(5, 0, PEOPLE, IMAGES, 32).images():
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=90)
        parts.append(buffer.getvalue())
    return parts


def protocol() -> list[tuple[int, int, int, int, int]]:
    """Rows (person, picture, other person, picture, fold), two same and two different per fold."""
    rows = []
    for fold in range(FOLDS):
        a, b, c, d = (fold + FOLDS * i for i in range(4))
        rows += [(a, 0, a, 1, fold), (b, 2, b, 4, fold), (a, 3, c, 0, fold), (b, 1, d, 2, fold)]
    return rows


def packed_fields() -> dict[str, Any]:
    parts = [np.frombuffer(data, np.uint8) for data in jpegs()]
    rows = np.array(protocol())
    pairs = np.stack([rows[:, 0] * IMAGES + rows[:, 1], rows[:, 2] * IMAGES + rows[:, 3]], 1)
    dev = np.where(np.arange(PEOPLE) % FOLDS < 7, 1, 2)
    late = rows[:, 4] >= 7
    return {
        "jpeg": np.concatenate(parts),
        "offsets": np.cumsum([0, *map(len, parts)]),
        "labels": np.repeat(np.arange(PEOPLE), IMAGES),
        "names": np.array(NAMES),
        "files": np.array([f"{n}/{n}_{i + 1:04d}.jpg" for n in NAMES for i in range(IMAGES)]),
        "person_fold": (np.arange(PEOPLE) % FOLDS).astype(np.uint8),
        "person_dev": dev.astype(np.uint8),
        "pairs": pairs.astype(np.int32),
        "pair_labels": (rows[:, 0] == rows[:, 2]).astype(np.uint8),
        "pair_folds": rows[:, 4].astype(np.uint8),
        "dev_test_pairs": pairs[late].astype(np.int32),
        "dev_test_labels": (rows[late, 0] == rows[late, 2]).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lfw") / "lfw.npz"
    np.savez(path, **packed_fields())
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("lfw_folder")
    for i, data in enumerate(jpegs()):
        name = NAMES[i // IMAGES]
        (root / name).mkdir(exist_ok=True)
        (root / name / f"{name}_{i % IMAGES + 1:04d}.jpg").write_bytes(data)

    def lines(rows: list[tuple[int, int, int, int, int]]) -> str:
        return "".join(
            f"{NAMES[a]}\t{i + 1}\t{j + 1}\n" if a == b else f"{NAMES[a]}\t{i + 1}\t{NAMES[b]}\t{j + 1}\n"
            for a, i, b, j, _ in rows
        )

    def people(chosen: list[int]) -> str:
        return f"{len(chosen)}\n" + "".join(f"{NAMES[i]}\t{IMAGES}\n" for i in chosen)

    folds = [[i for i in range(PEOPLE) if i % FOLDS == fold] for fold in range(FOLDS)]
    (root / "people.txt").write_text(f"{FOLDS}\n" + "".join(map(people, folds)))
    (root / "pairs.txt").write_text(f"{FOLDS}\t2\n" + lines(protocol()))
    (root / "peopleDevTrain.txt").write_text(people([i for i in range(PEOPLE) if i % FOLDS < 7]))
    (root / "peopleDevTest.txt").write_text(people([i for i in range(PEOPLE) if i % FOLDS >= 7]))
    late = [row for row in protocol() if row[4] >= 7]
    (root / "pairsDevTest.txt").write_text("6\n" + lines(late))
    return str(root)


@pytest.mark.parametrize("held", [0, 9])
@pytest.mark.parametrize("public", ["procedural", "people_fold"])
def test_view_2_respects_the_people_folds(packed: str, held: int, public: Any) -> None:
    split = Lfw(root=packed, held_fold=held, size=32, public=public).load(1)

    def folds(names: tuple[str, ...]) -> set[int]:
        return {NAMES.index(name) % FOLDS for name in names}

    spare = {(held + 1) % FOLDS} if public == "people_fold" else set()
    assert folds(split.evaluation.faces.present_names) == {held}
    assert folds(split.train.present_names) == set(range(FOLDS)) - {held} - spare
    assert split.public.synthetic == (public == "procedural")
    if spare:
        assert folds(split.public.present_names) == spare
    assert split.public_benchmark
    assert split.evaluation.same.tolist() == [True, True, False, False]
    assert split.train.folds is not None


def test_evaluated_pairs_are_the_official_ones(packed: str) -> None:
    pairs = Lfw(root=packed, held_fold=3, size=32).load(1).evaluation
    names = [
        (pairs.faces.names[pairs.faces.labels[a]], pairs.faces.names[pairs.faces.labels[b]])
        for a, b in zip(pairs.left, pairs.right, strict=True)
    ]
    wanted = [(NAMES[a], NAMES[b]) for a, _, b, _, fold in protocol() if fold == 3]
    assert names == wanted
    assert pairs.folds[0] == pairs.folds[2] != pairs.folds[1] == pairs.folds[3]  # pairs of one person stay together


@pytest.mark.parametrize(("view", "held"), [(1, 0), (2, 4)])
def test_folder_and_packed_file_give_the_same_split(packed: str, folder: str, view: int, held: int) -> None:
    one, other = (Lfw(root=root, view=view, held_fold=held, size=32).load(1) for root in (packed, folder))
    assert one.train.present_names == other.train.present_names
    np.testing.assert_array_equal(one.train.images(), other.train.images())
    for name in ("left", "right", "same", "folds"):
        np.testing.assert_array_equal(getattr(one.evaluation, name), getattr(other.evaluation, name))
    np.testing.assert_array_equal(one.evaluation.faces.images(), other.evaluation.faces.images())


def test_view_1_trains_on_development_people_only(packed: str) -> None:
    split = Lfw(root=packed, view=1, size=32).load(1)
    assert {NAMES.index(name) % FOLDS < 7 for name in split.train.present_names} == {True}
    assert len(split.evaluation) == 12


def test_caps(packed: str) -> None:
    split = Lfw(root=packed, size=32, max_images_per_identity=2).load(1)
    assert set(images_per_identity(split.train).tolist()) == {0, 2}
    with pytest.raises(checks.UserError, match="min_images=6"):
        Lfw(root=packed, size=32, min_images=6).load(1)


def test_a_leak_in_the_lists_is_refused(tmp_path: Path) -> None:
    fields = packed_fields()
    fields["person_fold"][0] = 5  # person 0 is in pairs of fold 0
    np.savez(tmp_path / "leak.npz", **fields)
    with pytest.raises(checks.UserError, match=r"1 identities are in both train and evaluation.*Person_00"):
        Lfw(root=str(tmp_path / "leak.npz"), size=32).load(1)


def test_missing_pieces_are_named(tmp_path: Path, folder: str) -> None:
    with pytest.raises(checks.UserError, match=r"nowhere' does not exist.*pairs\.txt"):
        Lfw(root="nowhere").load(1)
    with pytest.raises(checks.UserError, match=r"lacks people\.txt, which view 2 needs"):
        Lfw(root=str(tmp_path)).load(1)
    fields = packed_fields()
    del fields["pair_folds"]
    np.savez(tmp_path / "old.npz", **fields)
    with pytest.raises(checks.UserError, match=r"old\.npz lacks the fields \['pair_folds'\]"):
        Lfw(root=str(tmp_path / "old.npz")).load(1)
    for name in ("pairs.txt", "people.txt"):
        root = copy_of(folder, tmp_path / name, without=name)
        for text, message in (("10\t2\nPerson_00\t1\t2\n", "line "), ("", "empty|ends before its first line")):
            (root / name).write_text(text)
            with pytest.raises(checks.UserError, match=f"{name}.*({message})"):
                Lfw(root=str(root)).load(1)


def copy_of(folder: str, root: Path, without: str = "") -> Path:
    root.mkdir()
    for file in Path(folder).iterdir():
        if file.name != without:
            (root / file.name).symlink_to(file)
    return root


def own_copy(folder: str, root: Path, suffix: str = ".jpg") -> Path:
    """A copy whose pictures may be changed."""
    root.mkdir()
    for file in Path(folder).iterdir():
        if file.is_file():
            (root / file.name).write_bytes(file.read_bytes())
            continue
        (root / file.name).mkdir()
        for picture in file.iterdir():
            (root / file.name / picture.name).with_suffix(suffix).write_bytes(picture.read_bytes())
    return root


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png", ".bmp", ".PnG"])
def test_pictures_of_any_suffix_are_the_same_benchmark(suffix: str, folder: str, tmp_path: Path) -> None:
    root = own_copy(folder, tmp_path / "copy", suffix)
    if suffix.lower() in (".png", ".bmp"):
        for path in root.rglob(f"*{suffix}"):
            Image.open(path).save(path)
    one, other = (Lfw(root=str(place), held_fold=3, size=32).load(1) for place in (folder, root))
    assert one.train.records == other.train.records
    np.testing.assert_array_equal(one.train.images(), other.train.images())
    np.testing.assert_array_equal(one.evaluation.left, other.evaluation.left)


def test_two_files_of_one_picture_are_refused_by_name(folder: str, tmp_path: Path) -> None:
    root = own_copy(folder, tmp_path / "copy")
    picture = root / "Person_03" / "Person_03_0002.jpg"
    picture.with_suffix(".png").write_bytes(picture.read_bytes())
    with pytest.raises(checks.UserError, match=r"2 pictures have one name.*'Person_03_0002' and 'Person_03_0002'"):
        Lfw(root=str(root), size=32).load(1)


def test_what_is_no_picture_of_a_person_is_listed(folder: str, tmp_path: Path) -> None:
    root = own_copy(folder, tmp_path / "copy")
    (root / "Person_03" / "Thumbs.db").write_text("x")
    (root / "Person_03" / "Person_04_0009.jpg").write_bytes(b"x")
    (root / "Person_03" / "Person_03_0009.jpg").symlink_to("/dev/zero")
    os.mkfifo(root / "Person_05" / "Person_05_0009.png")
    split = Lfw(root=str(root), size=32).load(1)
    assert sorted(map(str, split.train.skipped)) == [
        "Person_03/Person_04_0009.jpg: not called like Person_03_0001",
        "Person_03/Thumbs.db: not a picture",
        "Person_03_0009: a device",
        "Person_05_0009: a named pipe",
    ]
    assert "Person_05_0009" in split.train.records  # it keeps its place
    assert not set(split.train.subset(split.train.readable).records) & {"Person_03_0009", "Person_05_0009"}


def test_lists_and_roots_that_are_no_files_are_named(folder: str, tmp_path: Path) -> None:
    for name in ("pairs.txt", "people.txt"):
        root = copy_of(folder, tmp_path / name, without=name)
        os.mkfifo(root / name)
        with pytest.raises(checks.UserError, match=f"{name} is a named pipe"):
            Lfw(root=str(root), size=32).load(1)
    with pytest.raises(checks.UserError, match=r"pairs\.txt/pairs\.txt' is a named pipe; expected a folder"):
        Lfw(root=str(tmp_path / "pairs.txt" / "pairs.txt"), size=32).load(1)
    with pytest.raises(checks.UserError, match=r"data\.root='' says nothing.*Write data\.root=PLACE"):
        Lfw().load(1)


def test_an_evaluated_picture_that_cannot_be_read_is_refused(folder: str, tmp_path: Path) -> None:
    root = own_copy(folder, tmp_path / "copy")
    picture = root / "Person_00" / "Person_00_0001.jpg"
    picture.write_bytes(b"no picture")
    with pytest.raises(checks.UserError, match=r"Person_00_0001.jpg: Person_00_0001: cannot be decoded.*copy it again"):
        Lfw(root=str(root), size=32).load(1).evaluation.faces.images()
    picture.unlink()
    os.mkfifo(picture)
    with pytest.raises(
        checks.UserError, match="1 pictures of evaluated pairs cannot be read, the first is Person_00_0001"
    ):
        Lfw(root=str(root), size=32).load(1)
    fields = packed_fields()
    fields["jpeg"] = fields["jpeg"].copy()
    fields["jpeg"][0] = 0
    np.savez(tmp_path / "lfw.npz", **fields)
    with pytest.raises(checks.UserError, match="the first is Person_00_0001: a benchmark is whole"):
        Lfw(root=str(tmp_path / "lfw.npz"), size=32).load(1)


def test_a_partial_copy_trains_and_says_so(folder: str, tmp_path: Path) -> None:
    root = own_copy(folder, tmp_path / "copy")
    shutil.rmtree(root / "Person_33")
    rows = (root / "pairs.txt").read_text().splitlines()
    kept = [row for row in rows if "Person_33" not in row]
    assert len(kept) < len(rows)
    with pytest.raises(
        checks.UserError, match=r"pairs\.txt, line \d+: expected a picture that is there, not 'Person_33"
    ):
        Lfw(root=str(root), size=32).load(1)
    # View 1 tests other people.
    (root / "pairsDevTest.txt").write_text("1\nPerson_07\t1\t2\nPerson_08\t1\tPerson_09\t1\n")
    split = Lfw(root=str(root), size=32, view=1).load(1)
    assert "1 of 40 listed people have no folder here" in split.train.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": np.full((40, 2), 200)}, r"pairs must lie in 0\.\.199 \(200 images\), got 200\.\.200"),
        ({"pairs": np.zeros((40, 2))}, r"pairs must be whole numbers \(N, 2\), got float64 \(40, 2\)"),
        ({"pairs": np.zeros(40, int)}, r"pairs must be whole numbers \(N, 2\)"),
        ({"pairs": np.zeros((40, 2), int)}, "40 pairs of pairs are one image twice, the first is 0"),
        ({"pair_labels": np.zeros(40, int)}, "20 pairs of pairs are not what pair_labels says of their people"),
        ({"pair_labels": np.full(40, 2)}, r"pair_labels must lie in 0\.\.1"),
        ({"pair_labels": np.zeros(39, int)}, r"pair_labels must be whole numbers \(40,\), got int64 \(39,\)"),
        ({"pair_folds": np.full(40, 10)}, r"pair_folds must lie in 0\.\.9"),
        ({"person_fold": np.full(40, 255, np.uint8)}, r"person_fold must lie in -1\.\.9, got 255\.\.255"),
        ({"person_fold": np.zeros(41, int)}, r"person_fold must be whole numbers \(40,\)"),
    ],
)
def test_wrong_lists_of_a_packed_file_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "wrong.npz", **{**packed_fields(), **change})
    with pytest.raises(checks.UserError, match=f"wrong\\.npz: {message}"):
        Lfw(root=str(tmp_path / "wrong.npz"), size=32).load(1)


def test_records_are_the_same_in_both_forms(packed: str, folder: str) -> None:
    one, other = (Lfw(root=root, size=32, max_images_per_identity=2).load(1).train for root in (packed, folder))
    assert one.records == other.records
    assert one.records[0].startswith("Person_")
    assert len(one.keys) == len(set(one.keys))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": 3}, "view=3"),
        ({"held_fold": 10}, "held_fold=10"),
        ({"size": 50}, "size=50"),
        ({"view": 1, "public": "people_fold"}, "needs view=2"),
    ],
)
def test_wrong_lfw_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(checks.UserError, match=message):
        Lfw(**settings)


@pytest.mark.skipif(not PACKED.is_file(), reason="needs a packed LFW, which is not in the repository")
def test_the_real_benchmark_has_its_official_numbers() -> None:
    split = Lfw(root=str(PACKED), held_fold=2).load(1)
    assert (len(split.evaluation), int(split.evaluation.same.sum())) == (600, 300)
    assert split.train.size == (48, 48)
    assert 450 < split.train.identities.size < 610
    assert images_per_identity(split.train).max() == 50
    assert split.train.images([0, 100]).std() > 20
