"""A folder of pictures, one sub-folder per person."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import decode, files
from fedveil.data.faces import FaceSet
from fedveil.data.held_out import HeldOut
from fedveil.data.names import Names, alike, fault
from fedveil.data.split import Split
from fedveil.data.stores import CachedStore, Problem, Unreadable

_BROKEN = -1
_LAYOUT = "expected ROOT/PERSON/PICTURE.jpg (or png, bmp, webp, tif, pgm, ppm), one folder per person"


@dataclasses.dataclass(frozen=True)
class Folder(HeldOut):
    """A folder of pictures, one sub-folder per person: ROOT/PERSON/*.jpg, aligned faces.

    Every file is decoded once, when the set is loaded: a broken file is found before training starts, is listed and
    never used; its place stays, so that nothing else moves. Pictures stay in memory as uint8 at the target size
    (3 * size^2 bytes each) up to 4 GiB; those of a larger set are decoded again whenever they are used: pack it.

    Attributes:
        root: the folder.

    The other settings are those of `HeldOut`.
    """

    root: str = ""

    def place(self, seed: int) -> str:
        """Return where the pictures are, by its absolute name."""
        return files.absolute(self.root)

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the split; `size_hint` replaces `size`.

        Raises:
            UserError: a missing or empty root, nobody with enough pictures, or evaluation that nobody declared public.
        """
        self.require_place("root", self.root, _LAYOUT)
        self.require_declaration()
        return self.split(read_folder(self.root, size_hint or self.size), seed)

    def whole(self, seed: int) -> FaceSet:
        """Return everybody, nobody left out or held out; pictures are not read yet."""
        self.require_place("root", self.root, _LAYOUT)
        return read_folder(self.root, self.size, checked=False)


def read_folder(root: str, size: int, checked: bool = True) -> FaceSet:
    """Return every picture of ROOT/PERSON/*, sorted by name; its record is PERSON/FILE.

    Whatever is called like a picture is listed, and counts for its person: one that cannot be read is marked, so that
    damage to a file moves nothing else. What is called otherwise is left out. All of it is in `skipped`, with reasons.
    Unless `checked`, pictures are not read yet, and one that is broken is found when it is.

    Raises:
        UserError: no folder, no readable picture, a folder that cannot be listed, or people's names that look alike.
    """
    top = files.place(root)
    if files.kind(top) != files.FOLDER:
        raise checks.UserError(f"data.root={root!r} is {files.kind(top)}, not a folder; {_LAYOUT}.")
    listed, problems = _list(top)
    people = Names([person.name for person, _ in listed], f"data.root={root!r}")
    records = [f"{person.name}/{name}" for person, pictures in listed for name in pictures]
    read = _Pictures(top, records, size)
    faces = FaceSet(
        store=CachedStore(len(records), (size, size), read.make, read.key, records.__getitem__, encoded=read.encoded),
        index=np.arange(len(records)),
        labels=np.repeat(np.arange(len(listed)), [len(pictures) for _, pictures in listed]),
        names=people,
        size=(size, size),
    )
    kept = [np.empty(0, np.int64)]
    for batch, _, found in faces.batches(64) if checked else ():
        kept.append(batch)
        problems += found
    broken = ~np.isin(faces.index, np.concatenate(kept)) & checked
    if broken.all():
        raise checks.UserError(f"data.root={root!r} holds no picture ({decode.summary(problems)}); {_LAYOUT}.")
    read.state[broken] = _BROKEN
    return dataclasses.replace(
        faces,
        skipped=tuple(problems),
        unreadable=broken if broken.any() else None,
        notes=(*read.notes(), *alike(records)),
    )


class _Pictures:
    """The files of a folder: decoded when asked for, as they were when they were first read.

    `state` is (N, 2): bytes and time of change, nanoseconds; 0 before a file is read.
    """

    def __init__(self, top: Path, records: Sequence[str], size: int) -> None:
        self._top, self._records, self._size = top, records, size
        self.state = np.zeros((len(records), 2), np.int64)
        self._original = np.zeros((len(records), 2), np.int32)
        self._grey = np.zeros(len(records), bool)

    def make(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([self._one(i) for i in index.tolist()])

    def _one(self, index: int) -> NDArray[np.uint8]:
        try:
            decoded = decode.decode(self._top / self._records[index], self._size)
            state = self._state(index)
        except (decode.Undecodable, OSError) as error:
            reason = files.reason(error) if isinstance(error, OSError) else str(error)
            raise self._failed(index, reason) from error
        self.state[index], self._original[index], self._grey[index] = state, decoded.original, decoded.grey
        return decoded.pixels

    def _state(self, index: int) -> tuple[int, int]:
        """Return what a file is now; one that was another before is refused: its key would be the other's."""
        found = (self._top / self._records[index]).stat()
        state, before = (found.st_size, found.st_mtime_ns), tuple(self.state[index].tolist())
        if before not in ((0, 0), state):
            raise self._failed(index, "has changed since the set was read")
        return state

    def _failed(self, index: int, reason: str) -> Unreadable:
        return Unreadable(Problem(self._records[index], reason), "`fedveil data inspect` lists them", str(self._top))

    def key(self, index: int) -> str:
        path = self._top / self._records[index]
        state = self.state[index]
        if (state == _BROKEN).all():
            return f"unreadable:{path}"
        size, changed = state.tolist() if state.any() else self._state(index)
        return f"{path.resolve()}:{size}:{changed}:{self._size}"

    def encoded(self, index: int) -> bytes:
        with files.opened(self._top / self._records[index]) as stream:
            return stream.read()

    def notes(self) -> tuple[str, ...]:
        seen = self._original.any(1)
        return decode.notes([(w, h) for w, h in self._original[seen].tolist()], int(self._grey.sum()), self._size)


def _list(top: Path) -> tuple[list[tuple[Path, list[str]]], list[Problem]]:
    """Return the people's folders with the names of what is called like a picture in them, and what was left out."""
    people: list[tuple[Path, list[str]]] = []
    problems: list[Problem] = []
    for person in files.listing(top):
        kind = files.kind(person)
        if kind != files.FOLDER:
            problems.append(Problem(person.name, f"{kind}, not inside a person's folder"))
            continue
        pictures = []
        for file in files.listing(person):
            name = f"{person.name}/{file.name}"
            if files.kind(file) == files.FOLDER:
                problems.append(Problem(name, files.FOLDER))
            elif file.suffix.lower() not in decode.SUFFIXES:
                problems.append(Problem(name, f"not a picture ({file.suffix!r})"))
            elif fault(file.name):
                problems.append(Problem(name, f"its name {fault(file.name)}; rename it"))
            else:
                pictures.append(file.name)
        people.append((person, pictures))
    return people, problems


METHOD = Folder
