# ruff: noqa: A005 - named after the command `fedveil data inspect`; always imported from its package
"""Look at a data set before spending compute on it: what it holds, and what is wrong with it."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import textwrap
from typing import Protocol

import numpy as np

from fedveil.data.faces import FaceSet, Problem, images_per_identity
from fedveil.data.split import Split

_WIDTH = 80
_BATCH = 256
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
        images: number of images.
        identities: number of people.
        size: height and width in pixels.
        grey: images whose three channels are equal.
        histogram: ((fewest, most images of a person), people) in ascending order.
        duplicates: groups of images with equal pixels, as (person, person, ...).
        skipped: files that were left out.
        notes: what reading changed.
    """

    name: str
    images: int
    identities: int
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
                found += [f"  {problem}" for problem in part.skipped[:_LISTED]]
                if len(part.skipped) > _LISTED:
                    found.append(f"  and {len(part.skipped) - _LISTED} more")
            single = sum(people for (_, most), people in part.histogram if most == 1)
            if single and part.name == "train":
                found.append(f"{part.name}: {single} people with a single image, which teach nothing about variation")
            across = [group for group in part.duplicates if len(set(group)) > 1]
            if part.duplicates:
                found.append(f"{part.name}: {len(part.duplicates)} groups of identical images")
            for group in across[:_LISTED]:
                found.append(f"  one image under several names: {', '.join(sorted(set(group)))}")
        for group in self.shared[:_LISTED]:
            found.append(f"one image in several sets: {', '.join(group)}")
        return found

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


def _wrap(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return "\n".join(textwrap.wrap(line, _WIDTH, subsequent_indent=indent)) if line else ""


def _bars(part: Part) -> list[str]:
    top = max(people for _, people in part.histogram)
    lines = []
    for (fewest, most), people in part.histogram:
        label = f"{fewest}" if fewest == most else f"{fewest}-{most}" if most < _BINS[-1][1] else f"{fewest} or more"
        bar = "#" * max(1, round(30 * people / top))
        lines.append(f"  {label:>10} images: {people:>6} people {bar}")
    return lines


def inspect(source_name: str, source: Source, seed: int) -> Report:
    """Load a source, read every image once and return the report; errors of loading pass through."""
    split = source.load(seed)
    sets = {"train": split.train, "evaluation": split.evaluation.faces, "public": split.public}
    parts, seen = [], collections.defaultdict(list)
    for name, faces in sets.items():
        part, hashes = _inspect_part(name, faces)
        parts.append(part)
        for digest in hashes:
            seen[digest].append(name)
    return Report(
        source=source_name,
        parts=tuple(parts),
        pairs=len(split.evaluation),
        same=int(split.evaluation.same.sum()),
        folds=int(np.unique(split.evaluation.folds).size),
        public_benchmark=split.public_benchmark,
        shared=tuple(tuple(names) for names in seen.values() if len(names) > 1),
    )


def _inspect_part(name: str, faces: FaceSet) -> tuple[Part, list[str]]:
    owners: dict[str, list[str]] = {}
    grey = 0
    for start in range(0, len(faces), _BATCH):
        where = np.arange(start, min(start + _BATCH, len(faces)))
        images = faces.images(where)
        grey += int((images == images[:, :1]).all(axis=(1, 2, 3)).sum())
        for image, label in zip(images, faces.labels[where], strict=True):
            owners.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), []).append(faces.names[label])
    counts = images_per_identity(faces)
    bins = (((low, high), int(((counts >= low) & (counts <= high)).sum())) for low, high in _BINS)
    part = Part(
        name=name,
        images=len(faces),
        identities=int(faces.identities.size),
        size=faces.size,
        grey=grey,
        histogram=tuple(row for row in bins if row[1]),
        duplicates=tuple(tuple(group) for group in owners.values() if len(group) > 1),
        skipped=faces.skipped,
        notes=faces.notes,
    )
    return part, list(owners)
