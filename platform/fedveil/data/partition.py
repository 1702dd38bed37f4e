"""Deal people to clients: every person is at one client, and who is where depends on names and the seed only."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.configuration.schema import Partition
from fedveil.data.faces import FaceSet, cap_images
from fedveil.randomness import derive_seed


@functools.lru_cache(maxsize=4)
def client_ids(clients: int) -> tuple[str, ...]:
    """Return the registry's ids in order.

    >>> client_ids(3)
    ('c0001', 'c0002', 'c0003')
    """
    return tuple(f"c{number:04d}" for number in range(1, clients + 1))


def partition(faces: FaceSet, clients: int, seed: int, settings: Partition) -> dict[str, NDArray[np.int64]]:
    """Return {client id: sorted indices into `faces`}, in the registry's order.

    People are ranked by a keyed hash of their names, so neither the order of files nor the number of images matters.
    `equal` deals them in turn (counts differ by at most one); `long_tailed` gives client j a share proportional to
    j^-exponent, at least one person each. Afterwards the public caps cut whole people, then images.

    Raises:
        UserError: fewer people than clients.
    """
    checks.positive(clients=clients)
    checks.one_of(("equal", "long_tailed"), kind=settings.kind)
    checks.non_negative(exponent=settings.exponent)
    if settings.max_identities is not None:
        checks.positive(max_identities=settings.max_identities)
    people = faces.identities
    if people.size < clients:
        raise checks.UserError(
            f"train.clients={clients} but only {people.size} people to train on: a client would have nobody. "
            f"Use at most {people.size} clients, or a data set with more people (data.identities for procedural)."
        )
    ranks = np.array([derive_seed(seed, "deal", faces.names[i]) for i in people], np.int64)
    dealt = people[np.argsort(ranks)]
    owner = np.full(len(faces.names), clients, np.int64)  # `clients` stands for nobody
    if settings.kind == "equal":
        owner[dealt] = np.arange(people.size) % clients
        place = np.arange(people.size) // clients
    else:
        sizes = zipf_sizes(people.size, clients, settings.exponent)
        owner[dealt] = np.repeat(np.arange(clients), sizes)
        place = np.concatenate([np.arange(size) for size in sizes])
    if settings.max_identities is not None:
        owner[dealt[place >= settings.max_identities]] = clients
    kept = np.arange(len(faces))
    limit = settings.max_images_per_identity
    if limit is not None:
        marked = cap_images(faces, limit, seed)
        kept = np.flatnonzero(np.isin(faces.index, marked.index))
    order = kept[np.argsort(owner[faces.labels[kept]], kind="stable")]
    edges = np.searchsorted(owner[faces.labels[order]], np.arange(clients + 1))
    return {
        name: order[start:stop] for name, start, stop in zip(client_ids(clients), edges[:-1], edges[1:], strict=True)
    }


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
