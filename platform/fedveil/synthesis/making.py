"""A set of synthetic faces from beginning to end: recogniser, generator, faces, judgement; all of it resumes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, randomness, runs
from fedveil.attacks.base import Progress, silent
from fedveil.data import synthetic_set
from fedveil.data.faces import FaceSet
from fedveil.data.provenance import Provenance
from fedveil.device import Place
from fedveil.evaluation import identification
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil.generators import _attributes as attributes
from fedveil.generators._network import Generator
from fedveil.pictures import sheet
from fedveil.synthesis import _whose, checkpoint, judgement, recogniser, sampling, training
from fedveil.synthesis.checkpoint import Learnt, Origin
from fedveil.synthesis.sampling import Drawn, Sampling
from fedveil.synthesis.training import Training

_PAIRS = 500_000  # of different people, at which the recogniser's threshold is found
_USUAL = 10_000  # pictures, at most, from which it is learnt what is usual: all of them are in memory at once
_SHOWN = 10  # people on the contact sheet


@dataclasses.dataclass(frozen=True)
class Making:
    """Where a generator comes from, and whose faces it may learn from.

    Attributes:
        generator: a file, or a run of generator=id3, that draws; none: one learns from the data's people.
        recogniser: a file or a run whose recogniser says who somebody is to a new generator; none: it learns, too.
        recogniser_is_public: your word that this recogniser learnt from public faces alone.
        recogniser_steps: of its own training.
        far: false accept rate at which an anchor is too near a real person's embedding.
        public: your word that the pictures of the data's people are public.
        shared: private people's faces may be learnt from without any guarantee, and faces made of them shown to all.
        judge: an ONNX recogniser that the generator never saw; none: a network that learns from other people.
    """

    generator: str | None = None
    recogniser: str | None = None
    recogniser_is_public: bool = False
    recogniser_steps: int = 1500
    far: float = 1e-4
    public: bool = False
    shared: bool = False
    judge: str | None = None

    def __post_init__(self) -> None:
        checks.positive(recogniser_steps=self.recogniser_steps)
        checks.fraction(far=self.far)
        if self.public and self.shared:
            raise checks.UserError("synthesis.public=true and synthesis.shared=true contradict each other; keep one.")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """All settings of `fedveil synthesize`, by what they are about."""

    making: Making
    training: Training
    sampling: Sampling


def make(
    federation: Federation, wanted: Wanted, folder: Path, progress: Progress = silent,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Make a set of synthetic faces in a folder and return what is known of it, which is also its result.json.

    Files: generator.safetensors (where one was learnt), faces.npz, sheet.png, nearest.png, result.json; and what an
    interrupted call goes on from.

    Args:
        federation: of generator=id3 and protection=none; its data's people are learnt from.
        wanted: the settings.
        folder: exists.
        progress: is shown the steps.
        say: is told what is done, a line each.

    Raises:
        fedveil.checks.UserError: faces that nobody declared public, a generator, recogniser or judge that does not fit,
            or a set that cannot be drawn; naming the setting and the remedy.
    """
    place, seconds = federation.place, {}
    origin = _whose.origin(federation, wanted.making)  # refused before anything is computed, and so is what follows
    judgement.check(wanted.making.judge)
    if wanted.making.generator is None and federation.generator is not None:
        sampling.check(wanted.sampling, federation.generator.times, attributes.NAMES)
    faces = federation.split.train.without_unreadable()
    if lost := len(federation.split.train) - len(faces):
        say(f"left out, because they cannot be read: {lost:,} pictures; `fedveil data inspect` names them")
    began = time.perf_counter()
    learnt = _learnt(federation, faces, wanted, origin, folder, progress, say)
    seconds["training"] = time.perf_counter() - began
    generator = place.module(learnt.generator)
    if generator.size != faces.size:
        raise checks.UserError(
            f"The generator makes faces of {generator.size[0]} pixels and data.size={faces.size[0]}; set "
            f"data.size={generator.size[0]}."
        )
    if wanted.making.generator is not None:
        learnt = dataclasses.replace(learnt, origin=_whose.together(learnt.origin, origin))
    sampled = {**dataclasses.asdict(wanted.sampling), "attributes": dict(wanted.sampling.attributes)}
    made = Provenance(  # a generator's account that cannot be kept is refused before anything is drawn
        learnt.origin.mode, learnt.sha256, learnt.origin.learnt_from, learnt.origin.statements,
        federation.settings.seed, sampled,
    )  # fmt: skip
    real, people = _embedded(generator, faces, place)
    threshold = _threshold(real, people, wanted.making.far, federation.settings.seed)
    began = time.perf_counter()
    drawn = sampling.generate(
        generator, wanted.sampling, real, threshold, folder / "faces", federation.settings.seed, place, progress
    )
    seconds["sampling"] = time.perf_counter() - began
    synthetic_set.write(folder / "faces.npz", drawn.images, drawn.labels, made)
    sheet.people(folder / "sheet.png", drawn.images, drawn.labels, _SHOWN)
    say(f"{len(drawn.images):,} faces of {len(drawn.anchors)} people: {folder / 'faces.npz'}")
    began = time.perf_counter()
    judged = judgement.of_set(federation, generator, drawn, faces, wanted.making.judge, folder, progress)
    seconds["judgement"] = time.perf_counter() - began
    if wanted.making.generator is not None:
        judged["members"] = f"people of data={federation.settings.data.name}, who need not be whom the generator learnt"
    result = _result(federation, wanted, learnt, drawn, judged, threshold, seconds)
    runs.write_json(folder / "result.json", result)
    return result


def _learnt(
    federation: Federation, faces: FaceSet, wanted: Wanted, origin: Origin, folder: Path, progress: Progress,
    say: Callable[[str], None],
) -> Learnt:  # fmt: skip
    """Return the generator: one that was named, one that was learnt before, or one that is learnt now."""
    settings, place, path = federation.settings, federation.place, folder / "generator.safetensors"
    if wanted.making.generator is not None:
        return checkpoint.read(wanted.making.generator, settings)
    if path.is_file():
        return checkpoint.read(str(path), settings)
    people = int(faces.identities.size)
    if people < 2:
        raise checks.UserError(
            f"data={settings.data.name} has {people} people to learn from; a generator needs two or more."
        )
    say(f"learning from {len(faces):,} faces of {people:,} people")
    generator = federation.backbone()
    if not isinstance(generator, Generator):
        raise checks.UserError(f"generator={settings.generator.name} makes no faces; choose generator=id3.")
    known = folder / "recogniser.npz"
    if known.is_file():
        set_tensors(generator.recogniser, runs.unpack(known, "recogniser", "Remove it: it is trained again.")[0])
    else:
        own = recogniser.recogniser(
            federation, faces, wanted.making.recogniser, wanted.making.recogniser_steps, place, progress
        )
        generator.recogniser.load_state_dict(own.state_dict())
        runs.write_packed(known, get_tensors(own), {})
    generator = place.module(generator)
    usual = faces
    if len(faces) > _USUAL:
        chosen = randomness.public_rng(settings.seed, "usual faces").choice(len(faces), _USUAL, replace=False)
        usual = faces.subset(np.sort(chosen))
    generator.fit(torch.cat([pixels for _, pixels in training.pixels_of(usual, place)]))
    training.train(generator, faces, wanted.training, settings.seed, folder / "training.npz", place, progress)
    digest = checkpoint.write(path, generator, settings, origin)
    return Learnt(generator, origin, digest)


@torch.no_grad()
def _embedded(generator: Generator, faces: FaceSet, place: Place) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the identities (M, D) of all faces by the generator's recogniser, and whose they are (M,)."""
    found = [(faces.labels[index], generator.embed(pixels)) for index, pixels in training.pixels_of(faces, place)]
    real = torch.cat([one for _, one in found]).float().cpu().numpy()
    return real, np.concatenate([labels for labels, _ in found]).astype(np.int64)


def _threshold(real: NDArray[np.float32], people: NDArray[np.int64], far: float, seed: int) -> float:
    """Return the cosine above which the recogniser takes two faces for one person, at a false accept rate."""
    rng = randomness.public_rng(seed, "threshold")
    left, right = rng.integers(0, len(real), (2, _PAIRS))
    other = people[left] != people[right]
    scores = np.einsum("nd,nd->n", real[left[other]], real[right[other]])
    return identification.threshold_at(scores.astype(np.float64), far)


def _result(
    federation: Federation, wanted: Wanted, learnt: Learnt, drawn: Drawn, judged: Mapping[str, Any], threshold: float,
    seconds: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    return {
        "generator_sha256": learnt.sha256,
        "mode": learnt.origin.mode,
        "learnt_from": learnt.origin.learnt_from,
        "statements": [*learnt.origin.statements],
        "people": len(drawn.anchors),
        "images": len(drawn.images),
        "size": federation.size[0],
        "seed": federation.settings.seed,
        "threshold": threshold,
        "counts": dict(drawn.counts),
        "packing": dict(drawn.packing),
        "judged": dict(judged),
        "seconds": dict(seconds),
        "settings": {
            **dataclasses.asdict(wanted.making),
            **dataclasses.asdict(wanted.training),
            **dataclasses.asdict(wanted.sampling),
        },
        "device": federation.place.name,
    }
