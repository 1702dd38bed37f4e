"""A set of labelled synthetic faces from a generator: anchors, variants, guided sampling, filters; resumable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks
from fedveil.attacks.base import Progress, silent
from fedveil.device import HOST, Place
from fedveil.synthesis import _blocks, _folder, variation
from fedveil.synthesis.anchors import Anchors, anchors, far_from
from fedveil.synthesis.base import Generator
from fedveil.synthesis.sampler import Ddim, times

_LEAST = 2  # pictures of a person, without which nobody learns anything from it
_BATCHES = 4  # in a block: what an interruption costs at most


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a set of synthetic faces is drawn.

    Attributes:
        identities: K synthetic people.
        images: m pictures of each; an identity that keeps fewer than 2 is dropped.
        ddim_steps: calls of the noise predictor for one picture.
        eta: fresh noise during the steps, 0 (none) to 1 (as much as in DDPM, which forgives a generator's mistakes).
        guidance: kappa, the weight of the identity's score; 0: none.
        cheap: leave the noise predictor out of the guidance's chain rule, and the noisiest 40 % of the times too.
        nearest: largest cosine between a picture's embedding and its anchor, as asked of the generator.
        farthest: smallest one; cosines are uniform between the two.
        apart: largest cosine of two anchors, where so many fit.
        packing_steps: gradient steps that move the anchors apart.
        keep: a picture whose embedding has a smaller cosine to its anchor is drawn again.
        duplicates: least root-mean-square difference of two pictures of one person, grey levels of 0 to 255.
        attempts: draws of one picture at most.
        batch: pictures that are sampled together.
        attributes: name -> standardised value (-2.5 to 2.5) that all pictures have; the others are drawn.
    """

    identities: int = 100
    images: int = 10
    ddim_steps: int = 25
    eta: float = 1.0
    guidance: float = 1.0
    cheap: bool = True
    nearest: float = 0.95
    farthest: float = 0.6
    apart: float = 0.3
    packing_steps: int = 200
    keep: float = 0.3
    duplicates: float = 2.0
    attempts: int = 3
    batch: int = 64
    attributes: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.positive(packing_steps=self.packing_steps, attempts=self.attempts, batch=self.batch)
        checks.within(1, 1e6, identities=self.identities)
        checks.within(_LEAST, 1e6, images=self.images)
        checks.within(0, 1, farthest=self.farthest)
        checks.within(self.farthest, 1, nearest=self.nearest)
        checks.within(-1, 1, apart=self.apart, keep=self.keep)
        checks.within(0, 255, duplicates=self.duplicates)
        for name, value in self.attributes.items():
            checks.within(-variation.FARTHEST_ATTRIBUTE, variation.FARTHEST_ATTRIBUTE, **{f"attributes.{name}": value})
        _ = self.ddim

    @property
    def ddim(self) -> Ddim:
        """How noise becomes a picture."""
        return Ddim(self.ddim_steps, self.eta, self.guidance, self.cheap)


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A set of synthetic faces.

    Attributes:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, 0..K-1, rising.
        anchors: (K, D) float32 of length one, of the people that are there.
        identities: (K,) their numbers among those that were asked for.
        counts: of pictures, `asked`, and those missing by what their last draw failed: `dropped_identity` (not the
            person), `dropped_nearest` (another one is nearer), `dropped_duplicate`; `dropped_few`, the rest of people
            with fewer than two; `dropped_people`. Of draws, `drawn`, redrawn ones included, and `refused_identity`,
            `refused_nearest`, `refused_duplicate`. Of kept pictures, `near_real`: those that the generator's recogniser
            takes for a real person of its training. asked = kept + dropped_*, people aside.
        packing: `Anchors` without its vectors.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    anchors: NDArray[np.float32]
    identities: NDArray[np.int64]
    counts: Mapping[str, int]
    packing: Mapping[str, float]


def check(sampling: Sampling, total: int, names: Sequence[str]) -> None:
    """Refuse settings that do not go with a generator of `total` times and of attributes of these names.

    Raises:
        fedveil.checks.UserError: an unknown attribute, or more steps than times.
    """
    variation.numbered(sampling.attributes, names)
    times(total, sampling.ddim_steps)


def generate(
    generator: Generator, sampling: Sampling, real: NDArray[Any], threshold: float, folder: Path, seed: int,
    place: Place = HOST, progress: Progress = silent,
) -> Drawn:  # fmt: skip
    """Return a set of synthetic faces; the same arguments on one machine give the same set.

    Finished people are files in `folder`. After an interruption the same call goes on and gives the very set that it
    would have given without.

    Args:
        generator: it is moved to the place and switched to evaluation.
        sampling: the settings.
        real: (M, D) embeddings, by the generator's recogniser, of all faces that it was trained on.
        threshold: cosine above which that recogniser takes two faces for one person (false accept rate 1e-4, say).
        folder: is made where it is missing.
        seed: public; all randomness derives from it.
        place: device and precision.
        progress: is shown pictures.

    Raises:
        fedveil.checks.UserError: an unknown attribute, anchors that cannot be had, a folder of another set, or no
            person with two pictures left; with the remedy.
        OSError: a file cannot be written; nothing half-written is left.
    """
    check(sampling, len(generator.alphas), generator.attribute_names)
    fixed = variation.numbered(sampling.attributes, generator.attribute_names)
    generator.to(place.device)
    generator.eval()
    digest = _folder.digest_of(generator, dataclasses.asdict(sampling), real, threshold, seed, place)
    _folder.claim(folder, digest)

    def pack() -> Anchors:
        mean, factor = generator.identity_mean, generator.identity_factor
        return anchors(
            sampling.identities, mean, factor, real, seed, threshold, sampling.apart, sampling.packing_steps
        )  # fmt: skip

    packed = _folder.kept_anchors(folder / "anchors.npz", digest, real, threshold, pack)
    batch = min(sampling.batch, place.batch or sampling.batch)
    drawing = _blocks.Drawing(
        generator, sampling.ddim, packed.vectors, sampling.images, sampling.farthest, sampling.nearest, sampling.keep,
        sampling.duplicates, sampling.attempts, batch, fixed, seed, place,
    )  # fmt: skip
    total, people = sampling.identities * sampling.images, max(1, _BATCHES * batch // sampling.images)
    blocks = []
    for number, first in enumerate(range(0, sampling.identities, people)):
        path, some = folder / f"block-{number:05d}.npz", range(first, min(first + people, sampling.identities))
        before = first * sampling.images
        if path.is_file():
            block = _blocks.read(path, generator.size, some, digest)
        else:
            block = drawing.block(some, _teller(progress, before, total))
            _blocks.write(path, block, digest)
        progress("drawing faces", before + len(some) * sampling.images, total)
        blocks.append(block)
    return _together(blocks, packed, sampling, _near_real(generator, real, threshold, place))


def _teller(progress: Progress, before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress("drawing faces", before + done, total)


def _near_real(
    generator: Generator, real: NDArray[Any], threshold: float, place: Place
) -> Callable[[NDArray[np.uint8]], int]:
    """Return what counts the pictures that the generator's recogniser takes for somebody whom it learnt from."""

    @torch.no_grad()
    def count(images: NDArray[np.uint8]) -> int:
        found = 0
        for start in range(0, len(images), 256):
            pixels = _blocks.to_pixels(torch.from_numpy(images[start : start + 256])).to(place.device)
            found += int((~far_from(generator.embed(pixels).float().cpu().numpy(), real, threshold)).sum())
        return found

    return count


def _together(
    blocks: list[_blocks.Block], packed: Anchors, sampling: Sampling, near_real: Callable[[NDArray[np.uint8]], int]
) -> Drawn:
    """Return all blocks as one set, without people of fewer than two pictures."""
    counts = {name: sum(block.counts[name] for block in blocks) for name in blocks[0].counts}
    owner = np.concatenate([block.owner for block in blocks])
    many = np.bincount(owner, minlength=sampling.identities)
    people = np.flatnonzero(many >= _LEAST)
    stays = np.isin(owner, people)
    if not people.size:
        raise checks.UserError(
            f"None of identities={sampling.identities} kept two of images={sampling.images}: of {counts['drawn']} "
            f"draws {counts['refused_identity']} did not show their person (cosine below keep={sampling.keep:g}), "
            f"{counts['refused_nearest']} another one, and {counts['refused_duplicate']} were there already. Train "
            "the generator longer, raise guidance, or lower keep."
        )
    images = np.empty((int(stays.sum()), *blocks[0].images.shape[1:]), np.uint8)
    done = 0
    while blocks:  # one by one, so that a large set is not there twice
        block = blocks.pop(0)
        chosen = block.images[np.isin(block.owner, people)]
        images[done : done + len(chosen)] = chosen
        done += len(chosen)
    labels = np.searchsorted(people, owner[stays]).astype(np.int64)
    counts = {
        "asked": sampling.identities * sampling.images, **counts, "dropped_few": int((~stays).sum()),
        "dropped_people": sampling.identities - people.size, "near_real": near_real(images),
    }  # fmt: skip
    return Drawn(images, labels, packed.vectors[people], people.astype(np.int64), counts, _folder.numbers(packed))
