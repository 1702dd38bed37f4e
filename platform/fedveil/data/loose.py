"""Pictures that are files of their own below one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import decode, files
from fedveil.data.faces import FaceSet
from fedveil.data.names import alike
from fedveil.data.stores import CachedStore, Problem, Unreadable

_BROKEN = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Loose:
    """Which files are pictures of whom.

    Attributes:
        top: the folder.
        files: (N,) paths from it.
        records: (N,) public ids.
        labels: (N,) people, an index into `names`.
        names: of people.
        problems: what was left out already.
        notes: what else is to be said.
    """

    top: Path
    files: Sequence[str]
    records: Sequence[str]
    labels: NDArray[np.int64]
    names: Sequence[str]
    problems: Sequence[Problem] = ()
    notes: tuple[str, ...] = ()


def read_loose(listed: Loose, size: int, where: str, layout: str, checked: bool = True) -> FaceSet:
    """Return every picture; one that cannot be read is marked, so that damage to a file moves nothing else.

    Unless `checked`, pictures are not read yet, and one that is broken is found when it is.

    Raises:
        UserError: no readable picture; the message says `where`, and the `layout` that was expected.
    """
    read = _Pictures(listed.top, listed.files, listed.records, size)
    faces = FaceSet(
        store=CachedStore(
            len(listed.files), (size, size), read.make, read.key, listed.records.__getitem__, encoded=read.encoded
        ),
        index=np.arange(len(listed.files)),
        labels=listed.labels,
        names=listed.names,
        size=(size, size),
    )
    broken, found = tried(faces) if checked else (np.zeros(len(faces), bool), [])
    problems = [*listed.problems, *found]
    if broken.all():
        raise checks.UserError(f"{where} holds no picture ({decode.summary(problems)}); {layout}.")
    read.state[broken] = _BROKEN
    return dataclasses.replace(
        faces,
        skipped=tuple(problems),
        unreadable=broken if broken.any() else None,
        notes=(*listed.notes, *read.notes(), *alike(listed.records)),
    )


def tried(faces: FaceSet) -> tuple[NDArray[np.bool_], list[Problem]]:
    """Return (N,) which pictures cannot be read, after reading each once, and why."""
    broken, problems = np.ones(len(faces), bool), []
    for batch, _, found in faces.batches(64):
        broken[batch] = False
        problems += found
    return broken, problems


def marked(faces: FaceSet) -> FaceSet:
    """Return the same faces with those marked that cannot be read, after reading each once."""
    broken, _ = tried(faces)
    return dataclasses.replace(faces, unreadable=broken if broken.any() else None)


class _Pictures:
    """The files of a folder: decoded when asked for, as they were when they were first read.

    `state` is (N, 2): bytes and time of change, nanoseconds; 0 before a file is read.
    """

    def __init__(self, top: Path, files: Sequence[str], records: Sequence[str], size: int) -> None:
        self._top, self._files, self._records, self._size = top, files, records, size
        self.state = np.zeros((len(files), 2), np.int64)
        self._original = np.zeros((len(files), 2), np.int32)
        self._grey = np.zeros(len(files), bool)

    def make(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([self._one(i) for i in index.tolist()])

    def _one(self, index: int) -> NDArray[np.uint8]:
        try:
            decoded = decode.decode(self._top / self._files[index], self._size)
            state = self._state(index)
        except (decode.Undecodable, OSError) as error:
            reason = files.reason(error) if isinstance(error, OSError) else str(error)
            raise self._failed(index, reason) from error
        self.state[index], self._original[index], self._grey[index] = state, decoded.original, decoded.grey
        return decoded.pixels

    def _state(self, index: int) -> tuple[int, int]:
        """Return what a file is now; one that was another before is refused: its key would be the other's."""
        found = (self._top / self._files[index]).stat()
        state, before = (found.st_size, found.st_mtime_ns), tuple(self.state[index].tolist())
        if before not in ((0, 0), state):
            raise self._failed(index, "has changed since the set was read")
        return state

    def _failed(self, index: int, reason: str) -> Unreadable:
        return Unreadable(Problem(self._records[index], reason), "`fedveil data inspect` lists them", str(self._top))

    def key(self, index: int) -> str:
        path = self._top / self._files[index]
        state = self.state[index]
        if (state == _BROKEN).all():
            return f"unreadable:{path}"
        size, changed = state.tolist() if state.any() else self._state(index)
        return f"{path.resolve()}:{size}:{changed}:{self._size}"

    def encoded(self, index: int) -> bytes:
        with files.opened(self._top / self._files[index]) as stream:
            return stream.read()

    def notes(self) -> tuple[str, ...]:
        seen = self._original.any(1)
        return decode.notes([(w, h) for w, h in self._original[seen].tolist()], int(self._grey.sum()), self._size)
