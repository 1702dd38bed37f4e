"""How many pictures of a person may be used, and which: chosen by record, so that no picture moves another one."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data.faces import FaceSet, counts
from fedveil.data.stores import Problem

_CHUNK = 4096  # names hashed at a time


def ranks(seed: int, purpose: str, names: Iterable[str], count: int) -> NDArray[np.int64]:
    """Return (count,) the `randomness.derive_seed(seed, purpose, name)` of each name, without a call for each.

    >>> from fedveil.randomness import derive_seed
    >>> ranks(1, "deal", ["ann"], 1).tolist() == [derive_seed(1, "deal", "ann")]
    True
    """
    begin, sha256, listed = f"i{seed}\x1fs{purpose}\x1fs", hashlib.sha256, iter(names)
    found = np.empty(count, np.int64)
    for start in range(0, count, _CHUNK):
        chunk = b"".join([sha256((begin + name).encode()).digest() for name in itertools.islice(listed, _CHUNK)])
        found[start : start + _CHUNK] = np.frombuffer(chunk, ">u8")[::4] >> np.uint64(1)
    return found


def images_per_identity(faces: FaceSet) -> NDArray[np.int64]:
    """Return (len(names),) the number of images of each identity, readable or not; zeros included."""
    return counts(faces.labels, len(faces.names))


def within_cap(faces: FaceSet, limit: int | None, seed: int) -> NDArray[np.bool_]:
    """Return (N,) which images stay when at most `limit` of each identity do; None means no cap.

    Who stays depends on the seed and the records only: not on the order in which a folder was listed, nor on any
    picture. An unreadable picture may be among them, and then that person has one fewer.
    """
    keep = np.ones(len(faces), bool)
    if limit is None:
        return keep
    checks.positive(max_images_per_identity=limit)
    many = images_per_identity(faces) > limit
    if not many.any():
        return keep
    places = np.flatnonzero(many[faces.labels])
    names = (faces.store.rank(int(i)) for i in faces.index[places])
    order = places[np.lexsort((ranks(seed, "cap", names, places.size), faces.labels[places]))]
    labels = faces.labels[order]
    first = np.searchsorted(labels, labels)  # where each person begins
    keep[order[np.arange(order.size) - first >= limit]] = False
    return keep


def cap_images(faces: FaceSet, limit: int | None, seed: int) -> FaceSet:
    """Return at most `limit` images of each identity, in their old order; None means no cap. See `within_cap`."""
    return faces if limit is None else faces.subset(within_cap(faces, limit, seed))


def enough_images(faces: FaceSet, min_images: int) -> FaceSet:
    """Return the people with at least `min_images` images, readable or not; the others are listed in `skipped`.

    Raises:
        UserError: nobody has enough.
    """
    held = images_per_identity(faces)
    few = faces.identities[held[faces.identities] < min_images]
    problems = tuple(
        Problem(faces.names[i], f"{held[i]} image(s) of this person, fewer than min_images={min_images}") for i in few
    )
    kept = faces.subset(~np.isin(faces.labels, few))
    if not len(kept):
        raise checks.UserError(
            f"No person has data.min_images={min_images} images ({len(few)} people have fewer); add images or lower it."
        )
    return dataclasses.replace(kept, skipped=faces.skipped + problems)
