# ruff: noqa: A005 - named after the command `fedveil data inspect`; always imported from its package
"""Look at a data set before spending compute on it: what it holds, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import hashlib
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil.data.caps import images_per_identity
from fedveil.data.faces import FaceSet
from fedveil.data.pairs import PairSet
from fedveil.data.split import Split
from fedveil.data.stores import Problem

_WIDTH = 80
_LISTED = 10
_BINS = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 10**9))


class Source(Protocol):
    """A data source's method."""

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        """Return the split."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What one set of faces holds.

    Attributes:
        name: train, evaluation or public.
        images: number of images that can be read.
        identities: number of people with such an image.
        unread: people who are listed and have no such image; they keep their place where people are dealt or chosen.
        size: height and width in pixels.
        grey: images whose three channels are equal.
        histogram: ((fewest, most images of a person), people) in ascending order.
        duplicates: groups of images with equal pixels, as (person, person, ...).
        skipped: files, pictures and people that were left out.
        notes: what reading changed.
    """

    name: str
    images: int
    identities: int
    unread: tuple[str, ...]
    size: tuple[int, int]
    grey: int
    histogram: tuple[tuple[tuple[int, int], int], ...]
    duplicates: tuple[tuple[str, ...], ...]
    skipped: tuple[Problem, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """A data set's contents and problems; `str` renders it at 80 columns."""

    source: str
    parts: tuple[Part, ...]
    pairs: int
    same: int
    folds: int
    public_benchmark: bool
    shared: tuple[tuple[str, ...], ...]

    def problems(self) -> list[str]:
        """Return one line per problem; empty when nothing is wrong."""
        found = []
        for part in self.parts:
            if part.skipped:
                found.append(f"{part.name}: {len(part.skipped)} files or people left out:")
                found += _some([str(problem) for problem in part.skipped])
            if part.unread:
                found.append(f"{part.name}: {len(part.unread)} people without a readable picture keep their place:")
                found += _some(part.unread)
            single = sum(people for (_, most), people in part.histogram if most == 1)
            if single and part.name == "train":
                found.append(f"{part.name}: {single} people with a single image, which teach nothing about variation")
            across = [group for group in part.duplicates if len(set(group)) > 1]
            if part.duplicates:
                found.append(f"{part.name}: {len(part.duplicates)} groups of identical images")
            found += _some([f"one image under several names: {', '.join(sorted(set(group)))}" for group in across])
        shared = [f"one image in several sets: {', '.join(group)}" for group in self.shared]
        return found + [line.removeprefix("  ") for line in _some(shared)]

    def __str__(self) -> str:
        lines = [f"data={self.source}", ""]
        for part in self.parts:
            height, width = part.size
            colour = "grey" if part.grey == part.images else "colour" if not part.grey else f"{part.grey} grey, colour"
            lines.append(f"{part.name}: {part.images} images of {part.identities} people, {height}x{width}, {colour}")
            lines += _bars(part) + [f"  {note}" for note in part.notes]
            if part.name == "evaluation":
                lines.append(f"  {self.pairs} pairs, {self.same} of one person, in {self.folds} folds")
        lines += ["", "public benchmark: " + ("yes, results may be shown" if self.public_benchmark else "no")]
        problems = self.problems()
        lines += ["", "problems: " + ("" if problems else "none found"), *(f"  {problem}" for problem in problems)]
        return "\n".join(_wrap(line.rstrip()) for line in lines)


def _some(lines: Sequence[str]) -> list[str]:
    """Return the first lines, indented, and how many more there are."""
    more = [f"  and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return [f"  {line}" for line in lines[:_LISTED]] + more


def _wrap(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    wide = any(unicodedata.east_asian_width(character) in "WF" for character in line)  # two columns each
    return "\n".join(textwrap.wrap(line, _WIDTH // 2 if wide else _WIDTH, subsequent_indent=indent)) if line else ""


def _bars(part: Part) -> list[str]:
    top = max((people for _, people in part.histogram), default=0)
    lines = []
    for (fewest, most), people in part.histogram:
        label = f"{fewest}" if fewest == most else f"{fewest}-{most}" if most < _BINS[-1][1] else f"{fewest} or more"
        bar = "#" * max(1, round(30 * people / top))
        lines.append(f"  {label:>10} images: {people:>6} people {bar}")
    return lines


def inspect(source_name: str, source: Source, seed: int, pairs: PairSet | None = None) -> Report:
    """Load a source, read every image once and return the report; `pairs` replace the source's own.

    Errors of loading pass through.
    """
    split = source.load(seed)
    used = split.evaluation if pairs is None else pairs
    sets = {"train": split.train, "evaluation": used.faces, "public": split.public}
    found = {name: _inspect_part(name, faces) for name, faces in sets.items()}
    return Report(
        source=source_name,
        parts=tuple(part for part, _ in found.values()),
        pairs=len(used),
        same=int(used.same.sum()),
        folds=int(np.unique(used.folds).size),
        public_benchmark=split.public_benchmark,
        shared=_shared({name: digests for name, (_, digests) in found.items()}),
    )


Digests = NDArray[np.uint64]
"""(N, 2) the first 16 bytes of each picture's SHA-256: of a million pictures, 16 MB."""


def _equal(digests: Digests) -> list[NDArray[np.int64]]:
    """Return the places of equal pictures, a group each, in the order of their first."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    edges = np.flatnonzero((digests[order[1:]] != digests[order[:-1]]).any(1)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [order.size]])
    groups = [np.sort(order[starts[run] : ends[run]]) for run in np.flatnonzero(ends - starts > 1)]
    return sorted(groups, key=lambda group: int(group[0]))


def _shared(found: dict[str, Digests]) -> tuple[tuple[str, ...], ...]:
    """Return the names of the sets that hold one picture, for each such picture."""
    once = {name: np.unique(digests, axis=0) for name, digests in found.items()}
    names = np.repeat([*once], [len(digests) for digests in once.values()])
    return tuple(tuple(names[group].tolist()) for group in _equal(np.concatenate([*once.values()])))


def _inspect_part(name: str, faces: FaceSet) -> tuple[Part, Digests]:
    hashes = bytearray()
    grey, read, problems = 0, [np.empty(0, np.int64)], list(faces.skipped)
    for where, images, unreadable in faces.batches():
        read.append(where)
        problems += unreadable
        grey += int((images == images[:, :1]).all(axis=(1, 2, 3)).sum())
        for image in images:
            hashes += hashlib.sha256(image.tobytes()).digest()[:16]
    kept, digests = faces.subset(np.concatenate(read)), np.frombuffer(hashes, np.uint64).reshape(-1, 2)
    counts = images_per_identity(kept)
    bins = (((low, high), int(((counts >= low) & (counts <= high)).sum())) for low, high in _BINS)
    part = Part(
        name=name,
        images=len(kept),
        identities=int(kept.identities.size),
        unread=tuple(faces.names[i] for i in np.setdiff1d(faces.identities, kept.identities)),
        size=faces.size,
        grey=grey,
        histogram=tuple(row for row in bins if row[1]),
        duplicates=tuple(tuple(kept.names[i] for i in kept.labels[group]) for group in _equal(digests)),
        skipped=tuple(problems),
        notes=faces.notes,
    )
    return part, digests
