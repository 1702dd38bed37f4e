"""No picture moves another one: whatever becomes of one record, every choice about all others is the same."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedveil.configuration.schema import Partition
from fedveil.data.caps import cap_images, within_cap
from fedveil.data.faces import FaceSet
from fedveil.data.partition import deal
from fedveil.data.sources.folder import Folder
from fedveil.data.sources.lfw import Lfw
from fedveil.data.sources.packed import Packed
from fedveil.data.split import Split

PEOPLE, IMAGES, SIZE = 20, 4, 16
NAMES = [f"Person_{i:02d}" for i in range(PEOPLE)]
PIXELS = np.random.default_rng(0).integers(0, 256, (PEOPLE * IMAGES, SIZE, SIZE, 3), np.uint8)
OTHER = 255 - PIXELS
CHANGES = ["other pixels", "another size", "no picture", "truncated", "empty", "touched"]


def encoded(pixels: np.ndarray[Any, Any], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def changed(image: int, change: str, kind: str) -> bytes:
    good = encoded(PIXELS[image], kind)
    return {
        "other pixels": encoded(OTHER[image], kind),
        "another size": encoded(np.kron(OTHER[image], np.ones((2, 3, 1), np.uint8)), kind),
        "no picture": b"no picture at all",
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "touched": good,
    }[change]


def jpeg_fields(parts: list[bytes]) -> dict[str, Any]:
    return {
        "jpeg": np.frombuffer(b"".join(parts), np.uint8),
        "offsets": np.cumsum([0, *map(len, parts)]),
        "labels": np.repeat(np.arange(PEOPLE), IMAGES),
        "names": np.array(NAMES),
    }


def protocol() -> list[tuple[int, int, int, int]]:
    """Pairs (person, picture, other, picture) of each of ten folds of two people: one of one person, one of two."""
    return [pair for fold in range(10) for pair in ((fold, 0, fold, 1), (fold, 2, fold + 10, 0))]


def folder(root: Path, image: int | None, change: str, suffix: str = "png") -> None:
    for i, pixels in enumerate(PIXELS):
        path = root / NAMES[i // IMAGES] / f"{NAMES[i // IMAGES]}_{i % IMAGES + 1:04d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels, "PNG") if i != image else changed(i, change, "PNG"))
        if i == image:
            os.utime(path, (1, 1))


def lfw_folder(root: Path, image: int | None, change: str) -> None:
    folder(root, image, change)
    blocks = "".join(f"2\n{NAMES[fold]}\t{IMAGES}\n{NAMES[fold + 10]}\t{IMAGES}\n" for fold in range(10))
    (root / "people.txt").write_text(f"10\n{blocks}")
    rows = [
        f"{NAMES[a]}\t{i + 1}\t{j + 1}\n" if a == b else f"{NAMES[a]}\t{i + 1}\t{NAMES[b]}\t{j + 1}\n"
        for a, i, b, j in protocol()
    ]
    (root / "pairs.txt").write_text("10\t1\n" + "".join(rows))


def packed(path: Path, image: int | None, change: str, **more: Any) -> None:
    parts = [encoded(pixels, "JPEG") for pixels in PIXELS]
    if image is not None:
        parts[image] = changed(image, change, "JPEG")
    np.savez(path, **jpeg_fields(parts), **more)


def lfw_packed(path: Path, image: int | None, change: str) -> None:
    rows = np.array(protocol())
    packed(
        path, image, change,
        files=np.array([f"{name}/{name}_{i + 1:04d}.jpg" for name in NAMES for i in range(IMAGES)]),
        person_fold=np.arange(PEOPLE) % 10,
        pairs=np.stack([rows[:, 0] * IMAGES + rows[:, 1], rows[:, 2] * IMAGES + rows[:, 3]], 1),
        pair_labels=(rows[:, 0] == rows[:, 2]).astype(int),
        pair_folds=np.repeat(np.arange(10), 2),
    )  # fmt: skip


def arrays(path: Path, image: int | None, change: str) -> None:
    pixels = PIXELS.copy()
    if image is not None:
        pixels[image] = OTHER[image] if change != "touched" else PIXELS[image]
    fields = jpeg_fields([])
    np.savez(path, images=pixels, labels=fields["labels"], names=fields["names"])


HELD = {"size": SIZE, "declared_public_evaluation": True, "evaluation_fraction": 0.3, "pairs": 40}
# How each kind of data set is written, and read.
KINDS: dict[str, tuple[Callable[..., None], Callable[[Path], Any]]] = {
    "folder": (folder, lambda place: Folder(root=str(place), **HELD)),
    "arrays": (arrays, lambda place: Packed(path=str(place), **HELD)),
    "jpegs": (packed, lambda place: Packed(path=str(place), **HELD)),
    "lfw folder": (lfw_folder, lambda place: Lfw(root=str(place), size=SIZE, min_images=2)),
    "lfw packed": (lfw_packed, lambda place: Lfw(root=str(place), size=SIZE, min_images=2)),
}


def written(kind: str, place: Path, image: int | None = None, change: str = "") -> Split:
    write, source = KINDS[kind]
    path = place / ("set.npz" if kind in ("arrays", "jpegs", "lfw packed") else "set")
    write(path, image, change)
    split: Split = dataclasses.replace(source(path), max_images_per_identity=3).load(1)
    return split


def choices(split: Split, without: str) -> Iterator[object]:
    """Yield every choice that is made of the listed pictures, but for the one record."""

    def named(faces: FaceSet, index: Any = None) -> list[str]:
        records = (faces if index is None else faces.subset(index)).records
        return [record for record in records if record != without]

    train, evaluation = split.train, split.evaluation
    yield train.present_names, named(train), evaluation.faces.present_names, split.public.present_names
    for limit in (1, 2):
        yield named(train, within_cap(train, limit, 1))
        for form in ("equal", "long_tailed"):
            choice = Partition(kind=form, max_identities=2, max_images_per_identity=limit)  # type: ignore[arg-type]
            yield [named(train, share) for _, share in deal(train, 5, 1, choice).items()]
    left, right = (evaluation.faces.subset(side).records for side in (evaluation.left, evaluation.right))
    pairs = zip(left, right, evaluation.same.tolist(), evaluation.folds.tolist(), strict=True)
    yield [pair for pair in pairs if without not in pair]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Split]:
    return {kind: written(kind, tmp_path_factory.mktemp(kind.replace(" ", "_"))) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=st.integers(0, PEOPLE * IMAGES - 1), change=st.sampled_from(CHANGES))
def test_no_record_moves_another_one(
    kind: str, image: int, change: str, whole: dict[str, Split], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if kind == "lfw packed" and (image // IMAGES) % 10 == 0:
        change = "other pixels"  # an evaluated picture that cannot be read is refused: a benchmark is whole
    other = written(kind, tmp_path_factory.mktemp("changed"), image, change)
    sets = (whole[kind].train, whole[kind].evaluation.faces, other.train, other.evaluation.faces)
    known = {i: record for faces in sets for i, record in zip(faces.index.tolist(), faces.records, strict=True)}
    record = known.get(image, "the cap has left it out")
    assert all(len(set(faces.records)) == len(faces) for faces in sets)
    for before, after in zip(choices(whole[kind], record), choices(other, record), strict=True):
        assert before == after
    # Its own place depends on what it shows no more than others' do.
    assert (record in whole[kind].train.records) == (record in other.train.records)


@pytest.mark.parametrize("kind", ["folder", "jpegs"])
def test_a_person_without_a_readable_picture_keeps_the_place(
    kind: str, whole: dict[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole[kind]
    gone = before.train.present_names[0]
    images = range(NAMES.index(gone) * IMAGES, NAMES.index(gone) * IMAGES + IMAGES)
    given = encoded

    def damaged(pixels: np.ndarray[Any, Any], form: str) -> bytes:
        mine = any(pixels.base is PIXELS and np.shares_memory(pixels, PIXELS[i]) for i in images)
        return b"no picture" if mine else given(pixels, form)

    monkeypatch.setitem(globals(), "encoded", damaged)
    after = written(kind, tmp_path)
    assert after.train.present_names == before.train.present_names
    assert after.evaluation.faces.present_names == before.evaluation.faces.present_names
    shares = [dict(deal(split.train, 5, 1, Partition()).items()) for split in (before, after)]
    for client in shares[0]:
        one, other = (split.train.subset(share[client]) for split, share in zip((before, after), shares, strict=True))
        assert other.records == tuple(r for r in one.records if not r.startswith(f"{gone}/"))
        other.images()
    assert len(after.train.subset(~after.train.readable)) == 3  # the cap chose among what is listed


def test_pairs_of_a_broken_picture_are_left_out_and_all_others_stay(whole: dict[str, Split], tmp_path: Path) -> None:
    pairs = whole["folder"].evaluation
    image = int(pairs.faces.index[pairs.left[0]])
    record = pairs.faces.records[int(pairs.left[0])]
    fewer = written("folder", tmp_path, image, "no picture").evaluation
    assert record not in fewer.faces.records
    assert len(fewer) < len(pairs)
    fewer.faces.images()


def test_the_cap_ranks_drawn_faces_as_it_always_did() -> None:
    from fedveil.data.sources.procedural import draw_faces
    from fedveil.randomness import derive_seed

    faces = draw_faces(3, 7, 3, 6, 32)
    assert faces.records[8] == "p0008/2"
    kept = set(cap_images(faces, 2, 5).keys)
    wanted = set()
    for person in range(3):
        own = faces.keys[6 * person : 6 * person + 6]
        wanted |= set(sorted(own, key=lambda key: derive_seed(5, "cap", key))[:2])
    assert kept == wanted
