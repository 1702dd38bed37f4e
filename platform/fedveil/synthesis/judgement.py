"""What a set is judged by: a recogniser that its generator never saw, and people of whom nothing was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, randomness
from fedveil.attacks import _judges
from fedveil.attacks.base import Progress, silent
from fedveil.data.faces import FaceSet
from fedveil.federation.federation import Federation
from fedveil.generators._network import Generator
from fedveil.pictures import sheet
from fedveil.synthesis import judging, leakage
from fedveil.synthesis.sampling import Drawn

_MOST = 400  # strangers, or twice as many as members
_LEAST = 20  # strangers of whom there have to be two kinds: those a judge learns from, and those it judges by


def check(onnx: str | None) -> None:
    """Refuse a judge that is not there, before anything is computed.

    Raises:
        fedveil.checks.UserError: no such file.
    """
    if onnx is not None and not Path(onnx).is_file():
        raise checks.UserError(f"synthesis.judge={onnx} is no file; name a recogniser in ONNX, or leave it out.")


def of_set(
    federation: Federation, generator: Generator, drawn: Drawn, members: FaceSet, onnx: str | None, folder: Path,
    progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Return what a set is worth and what it shows of the people whom its generator learnt, as plain JSON.

    Args:
        federation: whose data has strangers: people of the same kind of whom nothing is learnt.
        generator: on the federation's place.
        drawn: the set.
        members: whom the generator learnt.
        onnx: the file of a recogniser to judge by; None: a network learns from one half of the strangers, and the other
            half is what the set is held against.
        folder: where the sheet of nearest faces goes, and a judge is kept.
        progress: is shown the steps.

    Raises:
        fedveil.checks.UserError: a file that is no recogniser, or that reads pictures of another kind.
    """
    strangers, place, seed = federation.split.strangers, federation.place, federation.settings.seed
    if strangers is None:
        return {"omitted": "this source has no strangers: nobody to learn a judge from, or to compare members with"}
    strangers = _some(_of_two(strangers), max(_MOST, 2 * members.identities.size), seed)
    if strangers.identities.size < _LEAST:
        few = f"{strangers.identities.size} strangers have two pictures"
        return {"omitted": f"{few}, and a judgement needs {_LEAST}: choose a source with more"}
    if members.identities.size < leakage.LEAST:
        few = f"the generator learnt {members.identities.size} people"
        return {"omitted": f"{few}, and fewer than {leakage.LEAST} say nothing"}
    if onnx is None:
        learnt, strangers = _halves(strangers, seed)
        _, labels = np.unique(learnt.labels, return_inverse=True)
        judge: _judges.Judge = _judges.trained(
            learnt.images(), labels.astype(np.int64), seed, place.device, folder / "judge", progress
        )
    else:
        _, labels = np.unique(strangers.labels, return_inverse=True)
        judge = _judges.onnx(onnx, strangers.images(), labels.astype(np.int64))
    references = {"learnt": _labelled(members), "strangers": _labelled(strangers)}
    judged = judging.judge(drawn, judge, generator, references, seed, place, progress)
    found = leakage.leakage(drawn.images, drawn.labels, judge, members, strangers, seed, progress=progress)
    if members.public:
        sheet.neighbours(folder / "nearest.png", drawn.images, found["nearest"], members)
    return {**judged, "leakage": found}


def _some(faces: FaceSet, people: int, seed: int) -> FaceSet:
    """Return the pictures of so many people, or of all; by the seed."""
    if faces.identities.size <= people:
        return faces
    chosen = randomness.public_rng(seed, "judged strangers").choice(faces.identities, people, replace=False)
    return faces.subset(np.isin(faces.labels, chosen))


def _labelled(faces: FaceSet) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    readable = faces.subset(faces.readable)
    return readable.images(), readable.labels.astype(np.int64)


def _of_two(faces: FaceSet) -> FaceSet:
    """Return the readable pictures of people who have two."""
    faces = faces.subset(faces.readable)
    people, count = np.unique(faces.labels, return_counts=True)
    return faces.subset(np.isin(faces.labels, people[count > 1]))


def _halves(faces: FaceSet, seed: int) -> tuple[FaceSet, FaceSet]:
    """Return two sets without a person in common, of as many people."""
    people = faces.identities
    order = randomness.public_rng(seed, "judge").permutation(people.size)
    first = np.isin(faces.labels, people[order[: people.size // 2]])
    return faces.subset(first), faces.subset(~first)
