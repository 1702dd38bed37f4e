"""Labeled Faces in the Wild with its official protocol, from the usual folder or from one packed .npz file.

G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller, "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007: View 1
(one development split) is for choosing, View 2 (ten folds without a person in common) for reporting.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import archive, decode, official_lists
from fedveil.data.faces import CachedStore, FaceSet
from fedveil.data.official_lists import Pairs

NOT_LISTED = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
    """All faces, each person's group (View 2: fold 0..9; View 1: 1 trains, 2 tests; -1: not listed) and the pairs."""

    faces: FaceSet
    person_group: NDArray[np.int64]
    pairs: Pairs


def read(root: str, view: int, size: int) -> Benchmark:
    """Return view 1 or 2 of the benchmark in `root`: a packed .npz, or a folder NAME/NAME_0001.jpg with the lists."""
    top = Path(root).expanduser()
    if not root or not top.exists():
        raise checks.UserError(
            f"data.root={root!r} does not exist; expected a folder with NAME/NAME_0001.jpg, pairs.txt and people.txt, "
            "or a packed .npz."
        )
    return _read_folder(top, view, size) if top.is_dir() else _read_packed(root, view, size)


def _read_packed(path: str, view: int, size: int) -> Benchmark:
    fields = archive.open_archive(path)
    stem = ("person_fold", "pairs", "pair_labels") if view == 2 else ("person_dev", "dev_test_pairs", "dev_test_labels")
    archive.require(fields, (*stem, "pair_folds") if view == 2 else stem, path)
    faces = archive.faces_of(fields, path, size)
    if faces.skipped:
        raise checks.UserError(f"{path} is damaged ({decode.summary(list(faces.skipped))}); a benchmark is whole.")
    group, listed, same = fields[stem[0]], fields[stem[1]].astype(np.int64), fields[stem[2]].astype(bool)
    folds = fields["pair_folds"].astype(np.int64) if view == 2 else np.zeros(len(listed), np.int64)
    checks.same_shape((len(faces.names),), **{stem[0]: group.shape})
    checks.same_shape((len(same), 2), **{stem[1]: listed.shape})
    return Benchmark(faces, group.astype(np.int64), Pairs(listed[:, 0], listed[:, 1], same, folds))


def _read_folder(root: Path, view: int, size: int) -> Benchmark:
    people_files = ["people.txt"] if view == 2 else ["peopleDevTrain.txt", "peopleDevTest.txt"]
    pairs_file = "pairs.txt" if view == 2 else "pairsDevTest.txt"
    for name in (*people_files, pairs_file):
        if not (root / name).is_file():
            raise checks.UserError(f"data.root={str(root)!r} lacks {name}, which view {view} needs; copy it there.")
    people = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [file for person in people for file in sorted(person.glob("*.jpg"))]
    names = tuple(person.name for person in people)
    number = {name: i for i, name in enumerate(names)}
    place = {file.stem: i for i, file in enumerate(files)}
    group = np.full(len(names), NOT_LISTED, np.int64)
    if view == 2:
        blocks = official_lists.read_folds(root / "people.txt")
    else:
        blocks = [official_lists.read_people(root / name) for name in people_files]
    for value, block in enumerate(blocks, start=0 if view == 2 else 1):
        for name in block:
            if name in number:  # a partial copy of the pictures is fine for training
                group[number[name]] = value

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([_decode(files[i], size) for i in index])

    def key(index: int) -> str:
        state = files[index].stat()
        return f"{files[index].resolve()}:{state.st_size}:{state.st_mtime_ns}:{size}"

    faces = FaceSet(
        store=CachedStore(len(files), (size, size), make, key),
        index=np.arange(len(files)),
        labels=np.array([number[file.parent.name] for file in files], np.int64),
        names=names,
        size=(size, size),
    )
    return Benchmark(faces, group, official_lists.read_pairs(root / pairs_file, place, folded=view == 2))


def _decode(file: Path, size: int) -> NDArray[np.uint8]:
    try:
        return decode.decode(file, size).pixels
    except decode.Undecodable as error:
        raise checks.UserError(f"{file} cannot be decoded ({error}); a benchmark is whole: copy it again.") from error
