"""Whose membership is asked about: people who trained, people of the same source who did not, and a population.

All of them are a public benchmark's or drawn. Who is asked about goes by the public seed and by places, never by what a
picture shows.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, randomness
from fedveil.data.caps import images_per_identity, within_cap
from fedveil.data.faces import FaceSet
from fedveil.data.numbered import Numbered
from fedveil.data.sources.procedural import Procedural, draw_faces
from fedveil.data.together import together
from fedveil.federation.federation import Federation

FEWEST = 20  # trials on each side; a rate of fewer says nothing
_WHOLE_CLIENTS = 2 * FEWEST


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """The people and pictures of one attack; P people in the order members, strangers, population.

    Attributes:
        faces: all their pictures, N of them; a label is a person's number, 0..P-1.
        trained: (N,) pictures that a model which has the person is trained on: of a member those that the system
            used, of a stranger as many.
        scored: (N,) pictures that are looked at, at most `images` trained and as many spare ones of a person.
        members: people who trained.
        strangers: people who did not, and stand for those who might have.
        client: (P,) place of the member's client in the registry; -1 for everybody else.
        others: pictures in `split.train` of the members who are not asked about: every reference model has them too.
        spare: whether a member has pictures that the system did not use.
    """

    faces: FaceSet
    trained: NDArray[np.bool_]
    scored: NDArray[np.bool_]
    members: int
    strangers: int
    client: NDArray[np.int64]
    others: NDArray[np.int64]
    spare: bool

    @property
    def person(self) -> NDArray[np.int64]:
        """(N,) whose picture it is."""
        return self.faces.labels

    @property
    def people(self) -> int:
        """P."""
        return int(self.client.size)

    @property
    def population(self) -> NDArray[np.bool_]:
        """(P,) who is in no model, the attacked one included: what an unknown person looks like."""
        return np.arange(self.people) >= self.members + self.strangers

    @property
    def is_member(self) -> NDArray[np.bool_]:
        """(P,) who trained."""
        return np.arange(self.people) < self.members

    @property
    def is_stranger(self) -> NDArray[np.bool_]:
        """(P,) who stands for those who might have trained and did not."""
        return ~self.is_member & ~self.population


def asked_of(federation: Federation, members: int, images: int, seed: int) -> Asked:
    """Return the people of an attack on a run of this federation.

    Args:
        federation: of the attacked run.
        members: those that are asked about, at most, and strangers, at most.
        images: pictures of a person that are looked at, at most.
        seed: public, of the choice.

    Raises:
        fedveil.checks.UserError: the training people are private, or there are too few on either side.
    """
    split = federation.split
    if not split.public_benchmark:
        raise checks.UserError(
            "Membership is asked of the training people by name, and the people of "
            f"data={federation.settings.data.name} are private. Train the same recipe on a public benchmark (data=lfw) "
            "or on drawn faces (data=procedural) and attack that run."
        )
    rng = randomness.public_rng(seed, "membership people")
    client = _clients(federation)
    used = np.flatnonzero(client >= 0)
    labels, first = np.unique(split.train.labels[used], return_index=True)
    owner = client[used[first]]
    chosen = _chosen(owner, members, rng)
    mine = used[np.isin(split.train.labels[used], labels[chosen])]
    others = used[~np.isin(split.train.labels[used], labels[chosen])]
    known = split.train.subset(mine)
    member_faces, member_trained = _with_spare(federation, known)
    strange = _strangers(federation, known)
    who = rng.permutation(strange.identities)
    aside = max(FEWEST, who.size // 5, who.size - chosen.size)
    stand_in, crowd = who[: max(0, who.size - aside)], who[max(0, who.size - aside) :][: max(FEWEST, chosen.size)]
    if min(chosen.size, stand_in.size, crowd.size) < FEWEST:
        raise checks.UserError(
            f"Membership needs {FEWEST} people who trained, {FEWEST} of the same source who did not, with as many "
            f"pictures, and {FEWEST} more to compare with; there are {chosen.size}, {stand_in.size} and {crowd.size}. "
            "Attack a run with more people (data.identities, data.min_images, attack.members)."
        )
    parts = [member_faces, *(_only(strange, group) for group in (stand_in, crowd))]
    faces = together(parts)
    trained = np.concatenate([member_trained, np.ones(len(parts[1]) + len(parts[2]), bool)])
    return Asked(
        faces=faces,
        trained=trained & faces.readable,
        scored=_first(faces.labels, trained, images) & faces.readable,
        members=int(chosen.size),
        strangers=int(stand_in.size),
        client=np.concatenate([_owner_of(known, labels, owner), np.full(stand_in.size + crowd.size, -1)]),
        others=others,
        spare=bool((~trained).any()),
    )


def _clients(federation: Federation) -> NDArray[np.int64]:
    """Return (images,) which client of the registry trained on a picture; -1 for nobody."""
    found = np.full(len(federation.split.train), -1)
    for place, (_, share) in enumerate(federation.shares.items()):
        found[share] = place
    return found


def _chosen(owner: NDArray[np.int64], people: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the sorted places of the people to ask about: of whole clients where enough of those fit, else of all."""
    clients = rng.permutation(np.unique(owner))
    held = np.bincount(owner)[clients]
    fit = int((np.cumsum(held) <= people).sum())
    if owner.size <= people:
        return np.arange(owner.size)
    if fit >= _WHOLE_CLIENTS:
        return np.flatnonzero(np.isin(owner, clients[:fit]))
    return np.sort(rng.permutation(owner.size)[:people])


def _owner_of(known: FaceSet, labels: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    return owner[np.searchsorted(labels, known.identities)].astype(np.int64)


def _with_spare(federation: Federation, known: FaceSet) -> tuple[FaceSet, NDArray[np.bool_]]:
    """Return the members' pictures, used and not, and which are used; of drawn people as many more are drawn."""
    data, whole = federation.data, federation.split.train
    if isinstance(data, Procedural):
        most = 2 * int(images_per_identity(known).max())
        more = dataclasses.replace(data, images_per_identity=most, max_images_per_identity=None)
        whole = more.whole(federation.settings.seed)
    own = whole.subset(np.isin(whole.labels, known.identities))  # of one source: its people have the same numbers
    used = set(known.records)
    trained = np.array([record in used for record in own.records], bool)
    order = np.lexsort((~trained, own.labels))  # the used pictures of a person first
    return own.subset(order), trained[order]


def _strangers(federation: Federation, known: FaceSet) -> FaceSet:
    """Return strangers with as many pictures as members: the fewest that one has at least, the most at most.

    People with fewer pictures would be told apart by that, and not by who trained.
    """
    faces, data = federation.split.strangers, federation.data
    # Drawn people tell themselves from a generator's: a Numbered name says who is drawn.
    drawn = [isinstance(each.names, Numbered) for each in (faces, known) if each is not None]
    if faces is None or faces.synthetic != known.synthetic or len(set(drawn)) > 1:
        raise checks.UserError(
            "This data source has no public people of the same kind whom the system never saw, so nobody can stand for "
            "those who did not train; attack a run on data=procedural, data=lfw, or data=synthetic with "
            "data.evaluation=held_out."
        )
    pictures = images_per_identity(known)[known.identities]
    if isinstance(faces.names, Numbered) and isinstance(data, Procedural):  # the same people, as often drawn as members
        first, count = faces.names.numbers[0], faces.identities.size
        faces = draw_faces(
            federation.settings.seed, first, count, int(pictures.max()), federation.size[0], data.difficulty
        )
    faces = faces.subset(faces.readable)
    faces = faces.subset(images_per_identity(faces)[faces.labels] >= pictures.min())
    return faces.subset(within_cap(faces, int(pictures.max()), federation.settings.seed))


def _only(faces: FaceSet, people: NDArray[np.int64]) -> FaceSet:
    """Return the pictures of some people, person by person in their order."""
    own = faces.subset(np.isin(faces.labels, people))
    return own.subset(np.argsort(own.labels, kind="stable"))


def _first(person: NDArray[np.int64], trained: NDArray[np.bool_], images: int) -> NDArray[np.bool_]:
    """Return (N,) the first `images` trained pictures of every person, and the first spare ones."""
    found = np.zeros(person.size, bool)
    for kind in (trained, ~trained):
        places = np.flatnonzero(kind)
        own = person[places]  # sorted
        found[places[np.arange(own.size) - np.searchsorted(own, own) < images]] = True
    return found
