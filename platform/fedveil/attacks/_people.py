"""Who is who in an attack: the system's people, the attacker's, his victims, and those a judge is trained on.

Nobody is in two of these groups; who is in which depends on names and a public seed alone. The digest of a group stands
in the finding, so that two findings can be compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.attacks.base import OnFaces
from fedveil.configuration import plugins
from fedveil.data import caps
from fedveil.data.faces import FaceSet
from fedveil.data.names import key
from fedveil.data.split import shared_people
from fedveil.federation.federation import Federation

_LEAST_VICTIMS, _LEAST_IMAGES, _LEAST_JUDGED = 10, 50, 40
_MOST_JUDGED = 6000  # pictures


@dataclasses.dataclass(frozen=True, eq=False)
class People:
    """The groups of one attack, as uint8 pictures (N, 3, H, W) where they are read.

    Attributes:
        taken: (V, 3, H, W) the victims' attacked pictures, one of each person.
        other: (V, 3, H, W) another picture of each of them, in the same order.
        attacker: pictures of the attacker's own people.
        labels: (N,) who is on them, 0..K-1.
        judged: faces that a judge of our own is trained on; None: the judge is a file, or too few are left and it takes
            the attacker's.
        shown: the victims' pictures may be shown (nobody is on them).
        groups: for the finding: name -> people, images, digest.
        notes: what to know of the groups.
    """

    taken: NDArray[np.uint8]
    other: NDArray[np.uint8]
    attacker: NDArray[np.uint8]
    labels: NDArray[np.int64]
    judged: FaceSet | None
    shown: bool
    groups: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()


def people_of(federation: Federation, wanted: OnFaces) -> People:
    """Return the groups of an attack on a run.

    Raises:
        fedveil.checks.UserError: the source has no strangers, too few people are left, or somebody is in two groups.
    """
    split = federation.split
    strangers = split.strangers
    if strangers is None:
        raise checks.UserError(
            "This data source has nobody whom the system never saw and whose pictures are public, so there are no "
            "victims; attack a run on data=procedural, data=lfw, or on a folder with data.evaluation=held_out."
        )
    strangers = strangers.subset(strangers.readable)
    victims, rest = _victims(strangers, wanted)
    notes = []
    if wanted.people is None:
        attackers = _some(rest, wanted.images, wanted.seed, "attacker")
        rest = rest.subset(~np.isin(rest.labels, attackers.identities))
    else:
        attackers = _read(wanted.people, federation, wanted)
        _disjoint(attackers, {"victims": strangers.subset(victims[0]), "the system's people": split.train}, wanted)
    if len(attackers) < _LEAST_IMAGES:
        raise checks.UserError(
            f"The attacker has {len(attackers)} pictures of people of his own, and an attack needs {_LEAST_IMAGES}: "
            f"lower attack.victims={wanted.victims}, or name a folder or .npz file of other people (attack.people)."
        )
    many = caps.images_per_identity(rest) > 1
    rest = _some(rest.subset(many[rest.labels]), _MOST_JUDGED, wanted.seed, "judge")
    judged = rest if wanted.judge is None and rest.identities.size >= _LEAST_JUDGED else None
    if victims[0].size < wanted.victims:
        notes.append(f"There are {victims[0].size} victims with two pictures, {wanted.victims} were asked for.")
    if strangers.synthetic and not split.train.synthetic:
        notes.append("The victims are drawn faces: no real person of this source may be attacked in the open.")
    groups = {
        "system": group(split.train), "helpers": group(split.public), "attacker": group(attackers),
        "victims": group(strangers.subset(np.concatenate(victims))),
    }  # fmt: skip
    if judged is not None:
        groups["judge"] = group(judged)
    labels = np.unique(attackers.labels, return_inverse=True)[1].astype(np.int64)
    taken, other = (strangers.images(index) for index in victims)
    return People(taken, other, attackers.images(), labels, judged, strangers.synthetic, groups, tuple(notes))


def _victims(faces: FaceSet, wanted: OnFaces) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], FaceSet]:
    """Return the numbers of two pictures of each victim, and the faces of everybody else."""
    counts = caps.images_per_identity(faces)
    able = np.flatnonzero(counts > 1)
    chosen = able[_order(faces, able, wanted.seed, "victims")][: wanted.victims]
    if chosen.size < _LEAST_VICTIMS:
        raise checks.UserError(
            f"{chosen.size} people whom the system never saw have two pictures, and an attack needs {_LEAST_VICTIMS} "
            "victims; attack a run on a source with more people."
        )
    order = np.argsort(faces.labels, kind="stable")
    first = np.searchsorted(faces.labels[order], chosen)
    pairs = (order[first], order[first + 1])
    return pairs, faces.subset(~np.isin(faces.labels, chosen))


def _some(faces: FaceSet, images: int, seed: int, purpose: str) -> FaceSet:
    """Return whole people, by a hash of their names, with at most so many pictures together; one person at least."""
    people = faces.identities[_order(faces, faces.identities, seed, purpose)]
    counts = caps.images_per_identity(faces)[people]
    enough = int(np.searchsorted(np.cumsum(counts), images, side="right"))
    return faces.subset(np.isin(faces.labels, people[: max(1, enough)]))


def _order(faces: FaceSet, people: NDArray[Any], seed: int, purpose: str) -> NDArray[np.int64]:
    names = (faces.names[i] for i in people.tolist())
    return np.argsort(caps.ranks(seed, f"attack {purpose}", names, people.size), kind="stable")


def _read(place: str, federation: Federation, wanted: OnFaces) -> FaceSet:
    """Return the faces of a folder or packed file, at the run's size."""
    kind, setting = ("packed", "path") if Path(place).suffix == ".npz" else ("folder", "root")
    source = plugins.build("data", kind, {setting: place, "size": federation.size[0], "min_images": 1})
    faces: FaceSet = source.whole(wanted.seed)
    faces = faces.subset(faces.readable)
    return _some(faces, wanted.images, wanted.seed, "attacker")


def _disjoint(attackers: FaceSet, others: Mapping[str, FaceSet], wanted: OnFaces) -> None:
    for what, faces in others.items():
        if shared := shared_people(attackers, faces):
            raise checks.UserError(
                f"attack.people={wanted.people} holds {len(shared)} of {what}, for example {shared[:3]}: what is "
                "recovered of a person whom the attacker trained on says nothing. Take these people out of it."
            )


def group(faces: FaceSet) -> dict[str, Any]:
    """Return how many people and pictures a group has, and the digest of its names."""
    return named(faces.present_names, len(faces))


def named(names: Iterable[str], images: int) -> dict[str, Any]:
    """Return the same of people by their names, each of which counts once."""
    equal = sorted({key(name) for name in names})
    digest = hashlib.sha256("\x1f".join(equal).encode()).hexdigest()[:16]
    return {"people": len(equal), "images": images, "digest": digest}

