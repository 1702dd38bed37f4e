"""Deal people to clients: every person is at one client, and who is where depends on names and the seed only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.configuration.schema import Partition
from fedveil.data.caps import images_per_identity, ranks, within_cap
from fedveil.data.faces import FaceSet
from fedveil.data.numbered import Numbered


class Registry(Numbered):
    """The public ids of all clients in order, none of them kept in memory; equal to another of equal length.

    Raises:
        UserError: fewer clients than one, or an id that is none of them.

    >>> registry = Registry(3)
    >>> list(registry), registry.index("c0002"), "c0004" in registry, registry == Registry(3)
    (['c0001', 'c0002', 'c0003'], 1, False, True)
    """

    __slots__ = ()

    def __init__(self, clients: int) -> None:
        checks.positive(clients=clients)
        if not isinstance(clients, int | np.integer):
            raise checks.UserError(f"Expected clients={clients!r} to be a whole number.")
        super().__init__("c", range(1, int(clients) + 1))

    def __reduce__(self) -> tuple[Any, ...]:
        return Registry, (len(self),)

    def index(self, name: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the place of a client in constant time; raise `UserError` for one that is not in the registry."""
        try:
            return super().index(name, start, stop)
        except ValueError as error:
            raise checks.UserError(str(error)) from None

    def unknown(self, name: object) -> str:
        """Return a sentence for messages about an id that is none of these."""
        return f"Client {name!r} is not in the registry of {len(self)} clients, {self[0]} to {self[-1]}."

    def __repr__(self) -> str:
        return f"Registry({len(self)})"


@dataclasses.dataclass(frozen=True, eq=False)
class Shares:
    """Who has which images; a share is found when asked for, in time that its own size takes.

    Attributes:
        registry: the clients.
        people: labels of all dealt people, client by client.
        edges: (clients + 1,) where each client's people begin in `people`.
        rows: image numbers person by person; None where the set is in that order itself.
        starts: (labels + 1,) where each person's images begin in `rows`.
        kept: (N,) images within the cap and not known to be unreadable; None where all are.
    """

    registry: Registry
    people: NDArray[np.int32]
    edges: NDArray[np.int64]
    rows: NDArray[np.int64] | None
    starts: NDArray[np.int64]
    kept: NDArray[np.bool_] | None

    def __getitem__(self, client: str) -> NDArray[np.int64]:
        """Return the sorted indices of a client's images in the dealt set; raise `UserError` for an unknown client."""
        place = self.registry.index(client)
        own = self.people[self.edges[place] : self.edges[place + 1]]
        counts = self.starts[own + 1] - self.starts[own]
        ends = np.cumsum(counts)
        found = np.arange(counts.sum()) + np.repeat(self.starts[own] - ends + counts, counts)
        if self.rows is not None:
            found = self.rows[found]
        if self.kept is not None:
            found = found[self.kept[found]]
        return np.sort(found)

    def __contains__(self, client: object) -> bool:
        return client in self.registry

    def __len__(self) -> int:
        return len(self.registry)

    def __iter__(self) -> Iterator[str]:
        return iter(self.registry)

    def items(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield every client with its share, in the registry's order."""
        return ((client, self[client]) for client in self.registry)


def deal(faces: FaceSet, clients: int, seed: int, settings: Partition) -> Shares:
    """Return the clients' shares of `faces`.

    People are ranked by a keyed hash of their names, so neither the order of files nor the number of images matters.
    `equal` deals them in turn (counts differ by at most one); `long_tailed` gives client j a share proportional to
    j^-exponent, at least one person each. Afterwards the public caps cut whole people, then images.

    Who is listed is dealt: a person without a readable picture keeps the place, and no picture moves another one. A
    picture that is known to be unreadable is in no share, so a share may be empty.

    Raises:
        UserError: fewer people than clients.
    """
    registry = Registry(clients)
    checks.one_of(("equal", "long_tailed"), kind=settings.kind)
    checks.non_negative(exponent=settings.exponent)
    if settings.max_identities is not None:
        checks.positive(max_identities=settings.max_identities)
    dealt = _in_random_order(faces, seed)
    if dealt.size < clients:
        raise checks.UserError(
            f"train.clients={clients} but only {dealt.size} people to train on: a client would have nobody. "
            f"Use at most {dealt.size} clients, or a data set with more people (data.identities for procedural)."
        )
    if settings.kind == "equal":
        sizes = np.full(clients, dealt.size // clients)
        sizes[: dealt.size % clients] += 1
        # Client j has the people j, j + clients, j + 2 * clients, ...
        dealt = dealt[np.argsort(np.arange(dealt.size, dtype=np.int32) % clients, kind="stable")]
    else:
        sizes = zipf_sizes(dealt.size, clients, settings.exponent)
    if settings.max_identities is not None and settings.max_identities < sizes.max():
        place = np.arange(dealt.size) - np.repeat(_ends(sizes)[:-1], sizes)
        dealt, sizes = dealt[place < settings.max_identities], np.minimum(sizes, settings.max_identities)
    kept = within_cap(faces, settings.max_images_per_identity, seed)
    if faces.unreadable is not None:
        kept &= ~faces.unreadable
    in_order = bool((faces.labels[1:] >= faces.labels[:-1]).all())
    return Shares(
        registry=registry,
        people=dealt,
        edges=_ends(sizes),
        rows=None if in_order else np.argsort(faces.labels, kind="stable"),
        starts=_ends(images_per_identity(faces)),
        kept=None if kept.all() else kept,
    )


def _in_random_order(faces: FaceSet, seed: int) -> NDArray[np.int32]:
    """Return the labels of all people who are listed, by a hash of their names."""
    people = faces.identities
    names = faces.names if people.size == len(faces.names) else (faces.names[i] for i in people)
    order = np.argsort(ranks(seed, "deal", names, people.size), kind="stable")
    return people[order].astype(np.int32)


def _ends(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N + 1,) where each of N parts that follow each other begins, and where the last one ends."""
    found = np.zeros(sizes.size + 1, np.int64)
    np.cumsum(sizes, out=found[1:])
    return found


def zipf_sizes(people: int, clients: int, exponent: float) -> NDArray[np.int64]:
    """Return (clients,) numbers of people, non-increasing, each at least 1, summing to `people`.

    >>> zipf_sizes(20, 4, 1.0).tolist()
    [9, 5, 3, 3]
    """
    weights = np.arange(1, clients + 1, dtype=np.float64) ** -exponent
    exact = (people - clients) * weights / weights.sum()
    sizes = np.floor(exact).astype(np.int64)
    rest = people - clients - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:rest]] += 1
    return np.sort(sizes + 1)[::-1]
