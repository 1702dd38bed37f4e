"""IJB-B and IJB-C as they are published for 1:1 verification of templates: loose crops, landmarks, templates, pairs.

    ROOT/loose_crop/1.jpg ...
    ROOT/meta/ijbc_name_5pts_score.txt       NAME and five points X Y and a detector's score, a picture in a line
    ROOT/meta/ijbc_face_tid_mid.txt          NAME TEMPLATE MEDIA, the same pictures in the same order
    ROOT/meta/ijbc_template_pair_label.txt   TEMPLATE TEMPLATE LABEL, 1 for one person

A template is all pictures of one person in one set of media; a medium is a photograph or a video. B. Maze et al.,
"IARPA Janus Benchmark - C: Face Dataset and Protocol", ICB 2018; layout: `recognition/_evaluation_/ijb` of
https://github.com/deepinsight/insightface.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import alignment, decode, files
from fedveil.data.faces import FaceSet
from fedveil.data.indexed import read_numbers
from fedveil.data.names import fault
from fedveil.data.numbered import Numbered
from fedveil.data.stores import CachedStore, Problem, Unreadable

LAYOUT = "expected loose_crop/ and meta/ijbc_face_tid_mid.txt, ..._template_pair_label.txt, ..._name_5pts_score.txt"
_FACES, _PAIRS, _POINTS = "_face_tid_mid.txt", "_template_pair_label.txt", "_name_5pts_score.txt"
_WHOLE = re.compile("[0-9]{1,9}")


@dataclasses.dataclass(frozen=True, eq=False)
class Templates:
    """Pictures, which template and medium each belongs to, and pairs of templates.

    Attributes:
        faces: the aligned pictures; they are read when first used.
        templates: (N,) number of each picture's template, 0..T-1.
        media: (N,) its medium.
        left: (P,) template of each pair.
        right: (P,) the other.
        same: (P,) whether both are one person's.
    """

    faces: FaceSet
    templates: NDArray[np.int64]
    media: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]


def is_one(root: Path) -> bool:
    """Return whether a folder is laid out like this."""
    return any(path.name.endswith(_FACES) for path in _meta(root))


def _meta(root: Path) -> list[Path]:
    folder = root / "meta"
    return files.listing(folder) if files.kind(folder) == files.FOLDER else []


def read(root: Path, size: int) -> Templates:
    """Return the benchmark in a folder, pictures aligned by their landmarks to `size` pixels.

    Raises:
        fedveil.checks.UserError: naming the file and the line: a list that is missing or damaged, lists that do not
            belong together, a picture that is listed twice, a pair of a template that has no picture, labels that are
            not 0 or 1, or pairs of one kind only.
    """
    places = {suffix: _only(root, suffix) for suffix in (_FACES, _PAIRS, _POINTS)}
    if files.kind(root / "loose_crop") != files.FOLDER:
        raise checks.UserError(f"{root / 'loose_crop'} is {files.kind(root / 'loose_crop')}; {LAYOUT}.")
    names, templates, media = _pictures(places[_FACES])
    landmarks = _landmarks(places[_POINTS], names)
    known, place = np.unique(templates, return_inverse=True)
    pairs = read_numbers(places[_PAIRS], "TEMPLATE TEMPLATE LABEL")
    sides = np.searchsorted(known, pairs[:, :2])
    absent = known[np.minimum(sides, known.size - 1)] != pairs[:, :2]
    wrong = {
        "a template without a picture": absent.any(1),
        "a label that is not 0 or 1": pairs[:, 2] > 1,
        "one template twice": pairs[:, 0] == pairs[:, 1],
    }
    for what, where in wrong.items():
        if where.any():
            line = int(np.argmax(where))
            row = " ".join(map(str, pairs[line].tolist()))
            raise checks.UserError(f"{places[_PAIRS]}, line {line + 1}: {what}, {row!a}; copy the lists again.")
    same = pairs[:, 2].astype(bool)
    if not same.any() or same.all():
        raise checks.UserError(f"{places[_PAIRS]} holds no pairs of both kinds; copy it again.")
    faces = _faces(root / "loose_crop", names, landmarks, size)
    return Templates(faces, place.astype(np.int64), media, sides[:, 0], sides[:, 1], same)


def _only(root: Path, suffix: str) -> Path:
    found = [path for path in _meta(root) if path.name.endswith(suffix)]
    if len(found) != 1:
        held = "no" if not found else f"{len(found)}"
        raise checks.UserError(f"{root / 'meta'} holds {held} file ...{suffix} instead of one; {LAYOUT}.")
    return found[0]


def _lines(path: Path, fields: int, expected: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line and its fields, as many as there have to be; a name comes first."""
    try:
        with files.opened(path) as stream:
            for number, line in enumerate(stream, start=1):
                found = line.decode("utf-8", "replace").split()
                if len(found) != fields or fault(found[0]):
                    raise _refusal(path, number, expected, " ".join(found))
                yield number, found
    except OSError as error:
        raise checks.UserError(f"{path} is {files.reason(error)}; copy it there again.") from error


def _refusal(path: Path, line: int, expected: str, got: str) -> checks.UserError:
    return checks.UserError(f"{path}, line {line}: expected {expected}, got {got[:60]!a}; copy it again.")


def _pictures(path: Path) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return names, templates and media of all pictures."""
    names: dict[str, int] = {}
    rows = []
    for number, (name, *ids) in _lines(path, 3, "NAME TEMPLATE MEDIA"):
        if not all(map(_WHOLE.fullmatch, ids)):
            raise _refusal(path, number, "NAME TEMPLATE MEDIA, the last two whole numbers", " ".join([name, *ids]))
        if (before := names.setdefault(name, number)) != number:
            raise _refusal(path, number, f"a picture of its own, not that of line {before} again", name)
        rows.append((int(ids[0]), int(ids[1])))
    if not rows:
        raise checks.UserError(f"{path} lists no picture; copy it again.")
    table = np.array(rows, np.int64)
    return [*names], table[:, 0], table[:, 1]


def _landmarks(path: Path, names: list[str]) -> NDArray[np.float64]:
    """Return (N, 5, 2) the landmarks of all pictures, which are listed as in the other list."""
    found = np.empty((len(names), 11))
    count = 0
    for number, (name, *numbers) in _lines(path, 12, "NAME, five points X Y and a score"):
        if count == len(names) or name != names[count]:
            wanted = f"{names[count]!a}, as in the list of templates" if count < len(names) else "the end of the list"
            raise _refusal(path, number, wanted, name)
        try:
            found[count] = [float(word) for word in numbers]
        except ValueError:
            raise _refusal(path, number, "numbers", " ".join(numbers)) from None
        if not np.isfinite(found[count]).all() or np.ptp(found[count, :10].reshape(5, 2), 0).max() < 1e-3:
            raise _refusal(path, number, "five points that are apart", " ".join(numbers))
        count += 1
    if count < len(names):
        raise checks.UserError(f"{path} ends after {count} of {len(names)} pictures: it is cut off, copy it again.")
    return found[:, :10].reshape(-1, 5, 2)


def _faces(folder: Path, names: list[str], landmarks: NDArray[np.float64], size: int) -> FaceSet:
    def failed(index: int, reason: str) -> Unreadable:
        return Unreadable(Problem(names[index], reason), "a benchmark is whole: copy it again", str(folder))

    def one(index: int) -> NDArray[np.uint8]:
        try:
            return alignment.aligned(decode.upright(folder / names[index]), landmarks[index], size)
        except decode.Undecodable as error:
            raise failed(index, f"cannot be decoded ({error})") from error

    def key(index: int) -> str:
        try:
            state = (folder / names[index]).stat()
        except OSError as error:
            raise failed(index, files.reason(error)) from error
        return f"{(folder / names[index]).resolve()}:{state.st_size}:{state.st_mtime_ns}:{size}"

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([one(i) for i in index.tolist()])

    return FaceSet(
        store=CachedStore(len(names), (size, size), make, key, names.__getitem__),
        index=np.arange(len(names)),
        labels=np.zeros(len(names), np.int64),  # who is who is said of templates alone
        names=Numbered("somebody", range(1)),
        size=(size, size),
        public=True,
    )
