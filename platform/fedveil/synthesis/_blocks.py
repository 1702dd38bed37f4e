"""A few people at a time: sampled, filtered, sampled anew where they failed; a finished block is a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, runs
from fedveil.device import Place
from fedveil.synthesis import _filters, sampler, variation
from fedveil.synthesis.base import Generator

COUNTED = ("drawn", "refused_identity", "refused_nearest", "refused_duplicate")
"""Of draws; then, of pictures that are missing in the end, by what their last draw failed."""
DROPPED = ("dropped_identity", "dropped_nearest", "dropped_duplicate")


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Pictures of some people.

    Attributes:
        images: (n, 3, H, W) uint8.
        owner: (n,) number of the anchor, rising.
        counts: `COUNTED` and `DROPPED`.
    """

    images: NDArray[np.uint8]
    owner: NDArray[np.int64]
    counts: dict[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """All that pictures of one set have in common.

    Attributes:
        generator: on the place, in evaluation mode.
        ddim: how noise becomes a picture.
        anchors: (K, D) float32.
        images: m, of a person.
        low: smallest cosine of a picture's embedding to the anchor.
        high: largest.
        keep: see `_filters.by_identity`.
        duplicates: see `_filters.by_likeness`.
        attempts: draws of one picture at most.
        batch: pictures that are sampled together.
        fixed: attributes that do not vary, by number.
        seed: public.
        place: of the generator.
    """

    generator: Generator
    ddim: sampler.Ddim
    anchors: NDArray[np.float32]
    images: int
    low: float
    high: float
    keep: float
    duplicates: float
    attempts: int
    batch: int
    fixed: dict[int, float]
    seed: int
    place: Place

    def block(self, people: range, tell: Callable[[int], None]) -> Block:
        """Return the pictures of some people; `tell` is given how many of them were begun."""
        shape = (len(people), self.images)
        images = np.zeros((*shape, 3, *self.generator.size), np.uint8)
        state = np.full(shape, -1)
        counts = dict.fromkeys((*COUNTED, *DROPPED), 0)
        for attempt in range(self.attempts):
            rows, columns = np.nonzero(state != _filters.KEPT)
            if not rows.size:
                break
            for start in range(0, rows.size, self.batch):
                row, column = rows[start : start + self.batch], columns[start : start + self.batch]
                images[row, column], found = self._drawn(np.asarray(people)[row], column, attempt)
                state[row, column] = _filters.by_identity(found, self.anchors, np.asarray(people)[row], self.keep)
                if attempt == 0:
                    tell(start + row.size)
            drawn = np.zeros(shape, bool)
            drawn[rows, columns] = True
            new = drawn & (state == _filters.KEPT)
            different = _filters.by_likeness(images, ~drawn, new, self.duplicates)
            state[new & ~different] = _filters.DUPLICATE
            counts["drawn"] += rows.size
            _add(counts, COUNTED[1:], state[drawn])
        _add(counts, DROPPED, state)
        kept = state == _filters.KEPT
        return Block(images[kept], np.asarray(people)[np.nonzero(kept)[0]], counts)

    def _drawn(
        self, owner: NDArray[np.int64], column: NDArray[np.int64], attempt: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return pictures, and the embeddings of what was kept of them after rounding."""
        generator = self.generator
        names = [(person, image, attempt) for person, image in zip(owner.tolist(), column.tolist(), strict=True)]
        coins = variation.coins(self.seed, names, generator.dimension, len(generator.attribute_names), generator.size)
        centres = torch.from_numpy(self.anchors[owner])
        wanted = variation.variants(centres, self.low, self.high, coins.uniform, coins.direction)
        mean, factor = generator.attribute_mean.cpu(), generator.attribute_factor.cpu()
        attributes = variation.drawn_attributes(mean, factor, coins.attributes, self.fixed)
        made = sampler.sample(generator, self.ddim, coins.start, wanted, attributes, coins.fresh, self.place)
        images = to_uint8(made)
        with torch.no_grad():
            seen = generator.embed(to_pixels(images).to(self.place.device))
        return images.numpy(), seen.float().cpu().numpy()


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels in -1..1 as 0..255; one that is no number is 0."""
    return (pixels.nan_to_num(-1.0) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Return pictures 0..255 as pixels in -1..1."""
    return (images.float() - 127.5) / 127.5


def _add(counts: dict[str, int], names: tuple[str, ...], state: NDArray[Any]) -> None:
    for reason, name in enumerate(names, start=1):
        counts[name] += int((state == reason).sum())


def write(path: Path, block: Block, digest: str) -> None:
    """Write a finished block, whole or not at all."""
    runs.write_packed(
        path, {"images": block.images, "owner": block.owner}, {"digest": digest, "counts": block.counts}
    )  # fmt: skip


def read(path: Path, size: tuple[int, int], people: range, digest: str) -> Block:
    """Return a block that an earlier call finished.

    Raises:
        fedveil.checks.UserError: it is damaged, or of another set.
    """
    remedy = "Remove it: it is drawn again."
    arrays, meta = runs.unpack(path, "block of synthetic faces", remedy)
    images, owner = (arrays.get(name, np.zeros(())) for name in ("images", "owner"))
    kinds = images.dtype == np.uint8 and owner.dtype == np.int64
    sound = kinds and images.shape == (owner.size, 3, *size) and bool(np.isin(owner, people).all())
    counts = meta.get("counts")
    sound = sound and not runs.misfit(counts, dict.fromkeys((*COUNTED, *DROPPED), int), "counts")
    if meta.get("digest") != digest or not sound:
        raise checks.UserError(f"{path} is no block of this set of synthetic faces. {remedy}")
    return Block(images, owner, {name: meta["counts"][name] for name in (*COUNTED, *DROPPED)})
