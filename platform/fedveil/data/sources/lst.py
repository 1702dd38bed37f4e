"""Pictures that a list names, as MXNet and InsightFace write such lists."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from fedveil import checks
from fedveil.configuration.marks import PLACE
from fedveil.data import files
from fedveil.data.faces import FaceSet
from fedveil.data.held_out import HeldOut
from fedveil.data.image_list import read_list
from fedveil.data.loose import Loose, marked, read_loose
from fedveil.data.numbered import Numbered
from fedveil.data.split import Split

_LAYOUT = "expected a .lst in the folder that its paths start from: NUMBER, LABEL, PATH or ALIGNED, PATH, LABEL"


@dataclasses.dataclass(frozen=True)
class Lst(HeldOut):
    """Aligned pictures that a list names (`.lst`): who is on each is what the list says, not the folder it lies in.

    Every file is decoded once, when the set is loaded, as in `data=folder`. People have numbers for names.

    Attributes:
        path: the list; its paths start from the folder that it lies in, and stay below it.
        size: height and width in pixels, a multiple of 8.

    The other settings are those of `HeldOut`.
    """

    path: Annotated[str, PLACE] = ""
    size: int = 112

    def place(self, seed: int) -> str:
        """Return where the pictures are, by its absolute name: two lists of one folder are one account of it."""
        return files.absolute(str(files.place(self.path).parent))

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the split; `size_hint` replaces `size`.

        Raises:
            UserError: a missing or malformed list, no readable picture, or evaluation that nobody declared public.
        """
        self.require_place("path", self.path, _LAYOUT)
        self.require_declaration()
        return self.split(read_lst(self.path, size_hint or self.size), seed)

    def whole(self, seed: int) -> FaceSet:
        """Return everybody, nobody left out or held out; pictures are not read yet."""
        self.require_place("path", self.path, _LAYOUT)
        return read_lst(self.path, self.size, checked=False)

    def tried(self, faces: FaceSet) -> FaceSet:
        """Return the faces with those marked that cannot be read."""
        return marked(faces)


def read_lst(path: str, size: int, checked: bool = True) -> FaceSet:
    """Return the pictures of a list in its order; a record is PERSON/PATH.

    A picture that is missing or cannot be read is marked and keeps its place. Unless `checked`, pictures are not read.

    Raises:
        UserError: no such list, one that is malformed (see `image_list`), or no readable picture.
    """
    place = files.place(path)
    if files.kind(place) != files.FILE:
        raise checks.UserError(f"data.path={path!r} is {files.kind(place)}; {_LAYOUT}.")
    listed = read_list(place)
    names = Numbered("id", range(int(listed.labels.max()) + 1))
    records = [f"{names[label]}/{file}" for label, file in zip(listed.labels.tolist(), listed.files, strict=True)]
    notes = (f"{listed.nobodys} pictures are of nobody (label below 0) and left out",) if listed.nobodys else ()
    found = Loose(place.parent, listed.files, records, listed.labels, names, notes=notes)
    return read_loose(found, size, f"data.path={path!r}", _LAYOUT, checked)


METHOD = Lst
