"""Verification sets as InsightFace packs them: LFW, CFP-FP, AgeDB-30, CALFW, CPLFW and others, one `.bin` file each.

The file is a pickle of two lists: encoded pictures, two for a pair, and whether each pair shows one person
(`recognition/_datasets_` and `load_bin` of https://github.com/deepinsight/insightface). It is read without being run
(`fedveil.data.pickled`). Folds are ten runs of pairs in the file's order, which is the published protocol.

The file names nobody. Pictures of equal bytes are one picture; people are what its same pairs join. Where that
contradicts a pair of two people, each pair stands alone and the set says so in its notes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import decode, files, names, pickled
from fedveil.data.faces import FaceSet
from fedveil.data.numbered import Numbered
from fedveil.data.pairs import PairSet, joined_people
from fedveil.data.stores import CachedStore, Problem, Unreadable

SUFFIX = ".bin"
FOLDS = 10


def read(path: Path, size: int, training: str = "") -> PairSet:
    """Return the pairs of a `.bin` file; it is read whole, and pictures are decoded when first used.

    Raises:
        fedveil.checks.UserError: naming the file: a program, a damaged pickle, other lists than these, a picture that
            is none, or pairs of one kind only.
    """
    try:
        pictures, answers = _lists(_loaded(path))
    except pickled.Refused as error:
        raise checks.UserError(
            f"{path} is not read: {error}. Expected a pickle of encoded pictures and of truth values, as InsightFace "
            "packs verification sets; nothing of it was run."
        ) from error
    except OSError as error:
        raise checks.UserError(f"{path} is {files.reason(error)}; copy it there again.") from error
    digests = [hashlib.sha256(picture).hexdigest() for picture in pictures]
    first = {digest: i for i, digest in reversed([*enumerate(digests)])}
    own = np.unique(np.array([first[digest] for digest in digests]), return_inverse=True)
    kept, place = own[0], own[1]
    left, right, same = place[0::2], place[1::2], answers
    notes: tuple[str, ...] = ()
    people = joined_people(len(kept), left[same], right[same])
    if (people[left] == people[right])[~same].any():
        kept, left, right = np.arange(len(pictures)), np.arange(0, len(pictures), 2), np.arange(1, len(pictures), 2)
        people = np.unique(np.stack([2 * left, 2 * left + ~same], 1), return_inverse=True)[1].ravel()
        notes = ("its pairs contradict each other on who is who: each is taken as a pair of people of its own",)
    faces = _faces(path, pictures, digests, kept, people.astype(np.int64), size)
    folds = np.repeat(np.arange(FOLDS), [len(part) for part in np.array_split(same, FOLDS)])
    return PairSet(dataclasses.replace(faces, notes=notes), left, right, same, folds, declared_public=True)


def _loaded(path: Path) -> Any:
    with files.opened(path) as stream:
        return pickled.read(memoryview(stream.read()))


def _lists(value: Any) -> tuple[list[memoryview], NDArray[np.bool_]]:
    """Return encoded pictures and answers (P,) of what the pickle holds, checked."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise pickled.Refused("it holds no two lists")
    listed, said = (_items(part) for part in value)
    answers = [item for item in said if isinstance(item, (bool, int)) and item in (0, 1)]
    if len(answers) < len(said) or not said:
        raise pickled.Refused(f"{len(said) - len(answers)} of {len(said)} answers are no truth values")
    if len(listed) != 2 * len(answers):
        raise pickled.Refused(f"{len(listed)} pictures for {len(answers)} pairs, which need {2 * len(answers)}")
    pictures = []
    for place, item in enumerate(listed):
        if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.size:
            item = memoryview(item.tobytes())  # OpenCV encodes to an array of bytes
        if not isinstance(item, memoryview) or not item.nbytes:
            raise pickled.Refused(f"picture {place} is no encoded picture")
        pictures.append(item)
    same = np.array(answers, bool)
    if same.all() or not same.any():
        raise pickled.Refused(f"all {same.size} pairs are of {'one person' if same[0] else 'two people'}")
    return pictures, same


def _items(part: Any) -> list[Any]:
    part = pickled.finished(part)
    if isinstance(part, np.ndarray) and part.ndim == 1:
        return list(part.tolist())
    if not isinstance(part, (list, tuple)):
        raise pickled.Refused("one of its two parts is no list")
    return [pickled.finished(item) for item in part]


def _faces(
    path: Path, pictures: list[memoryview], digests: list[str], kept: NDArray[Any], people: NDArray[np.int64], size: int
) -> FaceSet:
    stem = names.printable(path.stem)

    def one(index: int) -> NDArray[np.uint8]:
        try:
            return decode.decode(bytes(pictures[kept[index]]), size).pixels
        except decode.Undecodable as error:
            problem = Problem(record(index), f"cannot be decoded ({error})")
            raise Unreadable(problem, "a benchmark is whole: copy it again", str(path)) from error

    def record(index: int) -> str:
        return f"{stem}/picture {kept[index]}"

    def key(index: int) -> str:
        return f"sha256:{digests[kept[index]]}:{index}:{size}"

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([one(i) for i in index.tolist()])

    return FaceSet(
        store=CachedStore(len(kept), (size, size), make, key, record),
        index=np.arange(len(kept)),
        labels=people,
        names=Numbered(f"{stem} person ", range(int(people.max()) + 1)),
        size=(size, size),
        public=True,
    )
