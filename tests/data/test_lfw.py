from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data.faces import images_per_identity
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


@pytest.mark.skipif(not PACKED.is_file(), reason="needs shared/data/lfw112_jpeg.npz, which is not in the repository")
def test_the_real_benchmark_has_its_official_numbers() -> None:
    split = Lfw(root=str(PACKED), held_fold=2).load(1)
    assert (len(split.evaluation), int(split.evaluation.same.sum())) == (600, 300)
    assert split.train.size == (48, 48)
    assert 450 < split.train.identities.size < 610
    assert images_per_identity(split.train).max() == 50
    assert split.train.images([0, 100]).std() > 20
