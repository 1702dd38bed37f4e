"""What a coordinator asks of a source: pairs and public faces alone, those of the split, no other picture opened."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data.faces import FaceSet
from fedveil.data.pairs import PairSet
from fedveil.data.sources.folder import Folder
from fedveil.data.sources.lfw import Lfw
from fedveil.data.sources.lst import Lst
from fedveil.data.sources.packed import Packed
from fedveil.data.sources.procedural import Procedural, draw_faces

PEOPLE, IMAGES, SIZE = 20, 3, 32
FACES = draw_faces(1, 0, PEOPLE, IMAGES, SIZE)
NAMES = [FACES.names[i] for i in range(PEOPLE)]
SMALL = {"size": SIZE, "pairs": 12}
HELD = {**SMALL, "declared_public_evaluation": True, "evaluation_fraction": 0.2}

_opened: list[str] = []
_watching = [False]


def _hook(event: str, arguments: Any) -> None:
    if _watching[0] and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_hook)  # what the interpreter itself says is opened; a hook stays, so it is switched off


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Return the names of all files that are opened from here on."""
    _opened.clear()
    _watching[0] = True
    yield _opened
    _watching[0] = False


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of people with LFW's lists and a .lst in it, and a packed file beside it."""
    top = tmp_path_factory.mktemp("people")
    root = top / "faces"
    for number, pixels in enumerate(FACES.images()):
        name = NAMES[number // IMAGES]
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(root / name / f"{name}_{number % IMAGES + 1:04d}.png")
    np.savez(top / "faces.npz", images=FACES.images().transpose(0, 2, 3, 1), labels=FACES.labels, names=np.array(NAMES))
    lines = [f"{i}\t{FACES.labels[i]}\t{NAMES[i // IMAGES]}/{NAMES[i // IMAGES]}_{i % IMAGES + 1:04d}.png"
             for i in range(len(FACES))]  # fmt: skip
    (root / "all.lst").write_text("\n".join(lines) + "\n")
    folds = "".join(f"2\n{NAMES[k]}\t{IMAGES}\n{NAMES[k + 10]}\t{IMAGES}\n" for k in range(10))
    (root / "people.txt").write_text(f"10\n{folds}")
    pairs = "".join(f"{NAMES[k]}\t1\t2\n{NAMES[k]}\t1\t{NAMES[k + 10]}\t1\n" for k in range(10))
    (root / "pairs.txt").write_text(f"10\t1\n{pairs}")
    return top


SOURCES: dict[str, Callable[[Path], Any]] = {
    "folder": lambda top: Folder(root=str(top / "faces"), **HELD),
    "list": lambda top: Lst(path=str(top / "faces" / "all.lst"), **HELD),
    "packed": lambda top: Packed(path=str(top / "faces.npz"), **HELD),
    "lfw": lambda top: Lfw(root=str(top / "faces"), size=SIZE, min_images=2, public="people_fold"),
    "drawn": lambda top: Procedural(evaluation_identities=8, public_identities=3, pairs=12),
}


def same_faces(one: FaceSet, other: FaceSet) -> bool:
    return (
        one.records == other.records
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.images(), other.images())
        and (one.public, one.synthetic) == (other.public, other.synthetic)
    )


def same_pairs(one: PairSet, other: PairSet) -> bool:
    named = ("left", "right", "same", "folds")
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in named)
        and one.declared_public == other.declared_public
        and same_faces(one.faces, other.faces)
    )


@pytest.mark.parametrize("kind", SOURCES)
def test_they_are_those_of_the_split(kind: str, place: Path) -> None:
    source = SOURCES[kind](place)
    split = source.load(1)
    assert same_pairs(source.evaluated(1), split.evaluation)
    assert same_faces(source.public_faces(1), split.public)


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_a_broken_picture_changes_no_other_pair(kind: str, place: Path) -> None:
    source = SOURCES[kind](place)
    wanted = source.load(1).evaluation
    name = wanted.faces.records[0].split("/")[-1]
    (broken,) = (place / "faces").glob(f"*/{name}")
    good = broken.read_bytes()
    try:
        broken.write_bytes(b"no picture")
        split, found = source.load(1).evaluation, source.evaluated(1)
        assert len(split.faces) == len(wanted.faces) - 1
        assert same_pairs(found, split)
    finally:
        broken.write_bytes(good)


@pytest.mark.parametrize("kind", ["folder", "list", "lfw"])
def test_only_pictures_of_evaluated_and_public_people_are_opened(kind: str, place: Path, opened: list[str]) -> None:
    source = SOURCES[kind](place)
    pairs, public = source.evaluated(1), source.public_faces(1)
    pairs.faces.images()
    public.images()
    people = {Path(name).parent.name for name in opened if name.endswith(".png")}
    own = {Path(record).name.rsplit("_", 1)[0] for record in pairs.faces.records}
    assert people == own | ({*public.present_names} if source.shows_own else set())
    assert len(people) == 4  # of twenty: a fifth that is held out, or two folds of two


def test_drawn_pairs_open_nothing_and_need_no_place(opened: list[str]) -> None:
    for source in (Folder, Lst, Packed):
        asked = source(evaluation="procedural", **SMALL)
        assert asked.evaluated(1).faces.synthetic
        assert asked.public_faces(1).synthetic
        assert not asked.evaluates_own
    assert Lfw(size=SIZE).public_faces(1).synthetic
    assert opened == []


@pytest.mark.parametrize("people", [2, 3])
def test_few_people_suffice_where_nobody_trains(people: int, place: Path, tmp_path: Path) -> None:
    for name in NAMES[:people]:
        (tmp_path / name).symlink_to(place / "faces" / name)
    source = Folder(root=str(tmp_path), **{**HELD, "evaluation_fraction": 1.0})
    assert set(source.evaluated(1).faces.present_names) == set(NAMES[:people])
    with pytest.raises(checks.UserError, match="leaves nobody to train on"):
        source.load(1)


def test_what_nobody_declared_public_is_refused_before_a_file_is_touched(place: Path, opened: list[str]) -> None:
    source = dataclasses.replace(SOURCES["folder"](place), declared_public_evaluation=False)
    with pytest.raises(checks.UserError, match="declared_public_evaluation"):
        source.evaluated(1)
    assert opened == []
