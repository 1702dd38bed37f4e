"""A RecordIO training set as InsightFace packs them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.configuration.marks import PLACE
from fedveil.data import decode, files, recordio
from fedveil.data.faces import FaceSet
from fedveil.data.held_out import HeldOut
from fedveil.data.numbered import Numbered
from fedveil.data.split import Split
from fedveil.data.stores import CachedStore, Problem, Unreadable

_LAYOUT = "expected train.rec with train.idx beside it, as InsightFace packs training sets"
_EXACT = 2**24  # beyond it a float32 label is no longer exact
_CLASSES = re.compile(r"\s*([0-9]{1,9})\s*,\s*[0-9]{1,5}\s*,\s*[0-9]{1,5}\s*")


@dataclasses.dataclass(frozen=True)
class Rec(HeldOut):
    """A RecordIO training set as InsightFace packs them: train.rec and train.idx, any number of people.

    Records are listed when the set is loaded, a few numbers each; pictures are read and decoded when first used. Labels
    are those of the records; a .lst beside them is not read. People have numbers for names.

    Attributes:
        path: the .rec file; the .idx is beside it, and perhaps `property` with the number of people.
        size: height and width in pixels, a multiple of 8.

    The other settings are those of `HeldOut`.
    """

    path: Annotated[str, PLACE] = ""
    size: int = 112

    def place(self, seed: int) -> str:
        """Return where the pictures are, by its absolute name."""
        return files.absolute(self.path)

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the split; `size_hint` replaces `size`.

        Raises:
            UserError: a missing or damaged file, labels out of range, or evaluation that nobody declared public.
        """
        self.require_place("path", self.path, _LAYOUT)
        self.require_declaration()
        return self.split(read_rec(self.path, size_hint or self.size), seed)

    def whole(self, seed: int) -> FaceSet:
        """Return everybody, nobody left out or held out; pictures are not read yet."""
        self.require_place("path", self.path, _LAYOUT)
        return read_rec(self.path, self.size)


def read_rec(path: str, size: int) -> FaceSet:
    """Return the pictures of a .rec file; a record is PERSON/record KEY.

    Raises:
        UserError: naming the file and the record or line.
    """
    place = files.place(path)
    found = files.kind(place)
    if found != files.FILE:
        raise checks.UserError(f"data.path={path!r} is {found}; {_LAYOUT}.")
    listed = recordio.listing(place)
    chosen = _pictures(listed)
    labels, people = _labels(listed, chosen)
    junk = labels < 0  # packers mark what could not be aligned so
    chosen, labels = chosen[~junk], labels[~junk]
    if not chosen.size:
        raise checks.UserError(f"{place} holds no picture of anybody; {_LAYOUT}.")
    keys, offsets = listed.keys[chosen], listed.offsets[chosen]
    unreadable = ~listed.picture[chosen]
    names = Numbered("id", range(people))

    def record(index: int) -> str:
        return f"{names[labels[index]]}/record {keys[index]}"

    def failed(index: int, reason: str) -> Unreadable:
        return Unreadable(Problem(record(index), reason), "copy it again", str(place))

    def contents(index: NDArray[np.int64]) -> list[bytes]:
        """Return the encoded pictures; the file is opened for each batch, so that workers share no position."""
        made = []
        try:
            with files.opened(place) as stream:
                if os.fstat(stream.fileno()).st_size != listed.size:
                    raise failed(int(index[0]), f"the file has changed: it had {listed.size} bytes when it was listed")
                for i in index.tolist():
                    try:
                        made.append(recordio.content(stream.fileno(), int(offsets[i]), listed.size))
                    except recordio.Damaged as error:
                        raise failed(i, str(error)) from error
        except OSError as error:
            raise failed(int(index[0]), files.reason(error)) from error
        return made

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        made = []
        for i, data in zip(index.tolist(), contents(index), strict=True):
            try:
                made.append(decode.decode(data, size).pixels)
            except decode.Undecodable as error:
                raise failed(i, f"cannot be decoded ({error})") from error
        return np.stack(made)

    def key(index: int) -> str:
        return f"sha256:{hashlib.sha256(encoded(index)).hexdigest()}:{index}:{size}"

    def encoded(index: int) -> bytes:
        return contents(np.array([index]))[0]

    notes = (f"{junk.sum()} records are of nobody (label below 0) and left out",) if junk.any() else ()
    return FaceSet(
        store=CachedStore(chosen.size, (size, size), make, key, record, encoded=encoded),
        index=np.arange(chosen.size),
        labels=labels,
        names=names,
        size=(size, size),
        skipped=tuple(Problem(record(int(i)), "no JPEG or PNG") for i in np.flatnonzero(unreadable)),
        notes=notes,
        unreadable=unreadable if unreadable.any() else None,
    )


def _pictures(listed: recordio.Listing) -> NDArray[np.int64]:
    """Return which records are pictures; those of InsightFace's header and people are not.

    Record 0 has two labels and nothing else: the first record after the pictures, and the end of those that say where
    each person's pictures are.
    """
    chosen = np.flatnonzero(~listed.empty)
    headed = len(listed) and listed.keys[0] == 0 and listed.empty[0] and listed.flags[0] > 1
    if headed and 0 < (after := float(listed.labels[0])) < _EXACT and chosen.size != int(after) - 1:
        raise checks.UserError(
            f"{listed.path} holds {chosen.size} pictures and its record 0 promises {int(after) - 1}: the file or its "
            ".idx is cut off; copy both again."
        )
    return chosen


def _labels(listed: recordio.Listing, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return the people of the chosen records, by number, and how many there are."""
    said = listed.labels[chosen].astype(np.float64)
    people = _property(listed.path.parent / "property")
    limit = _EXACT if people is None else min(people, _EXACT)
    wrong = np.flatnonzero(~np.isfinite(said) | (said != np.floor(said)) | (said >= limit))
    if wrong.size:
        known = f"the {people} people of `property`" if people is not None else f"{_EXACT - 1}, the last exact number"
        raise checks.UserError(
            f"{listed.path}: record {listed.keys[chosen[wrong[0]]]} has the label {said[wrong[0]]:g}, one of "
            f"{wrong.size} that are no number or beyond {known}; copy the set again."
        )
    labels = said.astype(np.int64)
    return labels, people if people is not None else int(labels.max(initial=-1)) + 1


def _property(path: Path) -> int | None:
    """Return the number of people that a file `property` says (PEOPLE,HEIGHT,WIDTH), None where there is none."""
    if files.kind(path) == "missing":
        return None
    try:
        with files.opened(path) as stream:
            text = stream.read(1000).decode("utf-8", "replace")
    except OSError as error:
        raise checks.UserError(f"{path} is {files.reason(error)}; copy it again, or remove it.") from error
    found = _CLASSES.fullmatch(text)
    if found is None or not int(found[1]):
        raise checks.UserError(f"{path}: expected PEOPLE,HEIGHT,WIDTH, got {text[:60]!a}; copy it again, or remove it.")
    return int(found[1])


METHOD = Rec
