"""Labeled Faces in the Wild with its official protocol, from the usual folder or from one packed .npz file.

G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller, "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007: View 1
(one development split) is for choosing, View 2 (ten folds without a person in common) for reporting.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import archive, decode, files, official_lists, packed_faces
from fedveil.data.faces import FaceSet
from fedveil.data.names import Names, equal, shown
from fedveil.data.official_lists import Pairs
from fedveil.data.stores import CachedStore, Problem, Unreadable

FOLDS = 10
NOT_LISTED = -1
LAYOUT = "expected a folder with NAME/NAME_0001.jpg, pairs.txt and people.txt, or a packed .npz"


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
    """All faces, each person's group (View 2: fold 0..9; View 1: 1 trains, 2 tests; -1: not listed) and the pairs."""

    faces: FaceSet
    person_group: NDArray[np.int64]
    pairs: Pairs


def read(root: str, view: int, size: int) -> Benchmark:
    """Return view 1 or 2 of the benchmark in `root`: a packed .npz, or a folder NAME/NAME_0001.jpg with the lists.

    A picture's record is its file's name without the suffix, in both.
    """
    top = files.place(root)
    kind = files.kind(top)
    if kind not in (files.FILE, files.FOLDER):
        found = "does not exist" if kind == "missing" else f"is {kind}"
        raise checks.UserError(f"data.root={root!r} {found}; {LAYOUT}.")
    return _read_folder(top, view, size) if kind == files.FOLDER else _read_packed(root, view, size)


def _read_packed(path: str, view: int, size: int) -> Benchmark:
    stem = ("person_fold", "pairs", "pair_labels") if view == 2 else ("person_dev", "dev_test_pairs", "dev_test_labels")
    wanted = (*stem, "pair_folds") if view == 2 else stem
    opened = archive.open_archive(path, (*packed_faces.FIELDS, *wanted), "data.root")
    opened.require("labels", "names", *wanted)
    faces = packed_faces.faces_of(opened, size, _stems(opened))
    group = opened.whole_numbers(stem[0], (len(faces.names),), NOT_LISTED, FOLDS - 1 if view == 2 else 2)
    listed = opened.whole_numbers(stem[1], (None, 2), 0, len(faces) - 1, f" ({len(faces)} images)")
    same = opened.whole_numbers(stem[2], (len(listed),), 0, 1).astype(bool)
    folds = np.zeros(len(listed), np.int64)
    if view == 2:
        folds = opened.whole_numbers("pair_folds", (len(listed),), 0, FOLDS - 1)
    once = np.flatnonzero(listed[:, 0] == listed[:, 1])
    if once.size:
        raise checks.UserError(f"{path}: {once.size} pairs of {stem[1]} are one image twice, the first is {once[0]}.")
    odd = np.flatnonzero((faces.labels[listed[:, 0]] == faces.labels[listed[:, 1]]) != same)
    if odd.size:
        raise checks.UserError(
            f"{path}: {odd.size} pairs of {stem[1]} are not what {stem[2]} says of their people, the first is {odd[0]}."
        )
    return Benchmark(faces, group, Pairs(listed[:, 0], listed[:, 1], same, folds))


def _stems(opened: archive.Archive) -> list[str] | None:
    """Return the records of a packed file, equal to those of the folder; None where files do not give them."""
    if "files" not in opened.fields:
        return None
    stems = [unicodedata.normalize("NFC", Path(file).stem) for file in opened.words("files")]
    return stems if all(map(str.isprintable, stems)) and len(set(stems)) == len(stems) else None


def _read_folder(root: Path, view: int, size: int) -> Benchmark:
    people_files = ["people.txt"] if view == 2 else ["peopleDevTrain.txt", "peopleDevTest.txt"]
    pairs_file = "pairs.txt" if view == 2 else "pairsDevTest.txt"
    for name in (*people_files, pairs_file):
        kind = files.kind(root / name)
        if kind == "missing":
            raise checks.UserError(f"data.root={str(root)!r} lacks {name}, which view {view} needs; copy it there.")
        if kind != files.FILE:
            raise checks.UserError(f"{root / name} is {kind}; view {view} needs the list: copy it there.")
    faces = _pictures(root, size)
    if view == 2:
        blocks = official_lists.read_folds(root / "people.txt")
    else:
        blocks = [official_lists.read_people(root / name) for name in people_files]
    number = {name: i for i, name in enumerate(faces.names)}
    group = np.full(len(faces.names), NOT_LISTED, np.int64)
    for value, block in enumerate(blocks, start=0 if view == 2 else 1):
        for name in block:
            if name in number:  # a partial copy of the pictures is fine for training
                group[number[name]] = value
    if away := sum(name not in number for block in blocks for name in block):
        note = f"{away} of {sum(map(len, blocks))} listed people have no folder here"
        faces = dataclasses.replace(faces, notes=(*faces.notes, note))
    place = {record: i for i, record in enumerate(faces.records)}
    pairs = official_lists.read_pairs(root / pairs_file, place, folded=view == 2)
    if view == 2 and len(blocks) != int(pairs.folds.max()) + 1:
        raise checks.UserError(
            f"{root / 'people.txt'} has {len(blocks)} folds, {pairs_file} has {int(pairs.folds.max()) + 1}; copy both "
            "again."
        )
    return Benchmark(faces, group, pairs)


def _pictures(root: Path, size: int) -> FaceSet:
    """Return all pictures of NAME/NAME_0001.jpg; they are decoded when first used."""
    people, listed, problems = _list(root)
    where = f"data.root={str(root)!r}"
    names = Names([unicodedata.normalize("NFC", person.name) for person in people], where)
    paths = [path for _, path, _ in listed]
    records = [unicodedata.normalize("NFC", path.stem) for path in paths]
    if same := equal(records):
        raise checks.UserError(
            f"{where}: {sum(map(len, same))} pictures have one name, without suffix and case: {shown(same)}; keep one "
            "of each."
        )
    unreadable = np.array([kind != files.FILE for _, _, kind in listed], bool)
    problems += [Problem(records[i], listed[i][2]) for i in np.flatnonzero(unreadable)]

    def failed(index: int, reason: str) -> Unreadable:
        return Unreadable(Problem(records[index], reason), "a benchmark is whole: copy it again", str(paths[index]))

    def one(index: int) -> NDArray[np.uint8]:
        try:
            return decode.decode(paths[index], size).pixels
        except decode.Undecodable as error:
            raise failed(index, f"cannot be decoded ({error})") from error

    def key(index: int) -> str:
        try:
            state = paths[index].stat()
        except OSError as error:
            raise failed(index, files.reason(error)) from error
        return f"{paths[index].resolve()}:{state.st_size}:{state.st_mtime_ns}:{size}"

    return FaceSet(
        store=CachedStore(
            len(paths), (size, size), lambda index: np.stack([one(i) for i in index.tolist()]), key, records.__getitem__
        ),
        index=np.arange(len(paths)),
        labels=np.array([who for who, _, _ in listed], np.int64),
        names=names,
        size=(size, size),
        skipped=tuple(problems),
        unreadable=unreadable if unreadable.any() else None,
    )


def _list(root: Path) -> tuple[list[Path], list[tuple[int, Path, str]], list[Problem]]:
    """Return the people's folders, their pictures as (person, path, kind), and what is no picture of them."""
    people = [path for path in files.listing(root) if files.kind(path) == files.FOLDER]
    pictures: list[tuple[int, Path, str]] = []
    problems: list[Problem] = []
    for who, person in enumerate(people):
        for path in files.listing(person):
            kind = files.kind(path)
            if path.suffix.lower() not in decode.SUFFIXES or kind == files.FOLDER:
                problems.append(Problem(f"{person.name}/{path.name}", "not a picture"))
            elif not path.stem.startswith(f"{person.name}_") or not path.stem.isprintable():
                problems.append(Problem(f"{person.name}/{path.name}", f"not called like {person.name}_0001"))
            else:
                pictures.append((who, path, kind))
    return people, pictures, problems
