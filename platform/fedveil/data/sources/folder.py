"""A folder of pictures, one sub-folder per person."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np

from fedveil import checks
from fedveil.configuration.marks import PLACE
from fedveil.data import decode, files
from fedveil.data.faces import FaceSet
from fedveil.data.held_out import HeldOut
from fedveil.data.loose import Loose, marked, read_loose
from fedveil.data.names import Names, fault
from fedveil.data.split import Split
from fedveil.data.stores import Problem

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

    root: Annotated[str, PLACE] = ""

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

    def tried(self, faces: FaceSet) -> FaceSet:
        """Return the faces with those marked that cannot be read."""
        return marked(faces)


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
    labels = np.repeat(np.arange(len(listed)), [len(pictures) for _, pictures in listed])
    found = Loose(top, records, records, labels, people, problems)
    return read_loose(found, size, f"data.root={root!r}", _LAYOUT, checked)


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
