"""What a stage's network is fed of a client's images: kept copies, fresh noise, or public draws; free of Flower."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.data.faces import FaceSet
from fedveil.federation.federation import Federation
from fedveil.federation.schedule import Stage
from fedveil.protections.base import Visit
from fedveil_clients.memo import Copies
from fedveil_clients.prepared import SHELF

Features = Callable[[NDArray[np.int64], int], torch.Tensor]
"""Image numbers and the global step number -> what the recogniser is fed, (B, *layout) float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Feeding:
    """How one stage of a federation is fed under one public state of the protection.

    Attributes:
        state: the protection's public state.
        mechanism: `federation.mechanism.mechanism_id` of both.
    """

    federation: Federation
    stage: Stage
    state: Mapping[str, torch.Tensor]
    mechanism: bytes

    def kept(self, copies: Copies) -> Features:
        """Return the features of noisy copies: nothing else is read of those images."""

        def memoised(index: NDArray[np.int64], step: int) -> torch.Tensor:
            return self._fed(copies.batch(index))

        return memoised

    def afresh(self, faces: FaceSet, key: bytes) -> Features:
        """Return features under noise that is drawn at every reading, from a secret key of this opening alone."""

        def noised(index: NDArray[np.int64], step: int) -> torch.Tensor:
            streams = [randomness.SecretStream(randomness.subkey(key, step, place)) for place in range(len(index))]
            images = torch.from_numpy(faces.images(index))
            return self._fed(self.federation.protection.release(images, self.state, streams))

        return noised

    def _fed(self, released: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.federation.protection.features(released, self.state)
        return found

    def empirical(self, faces: FaceSet, where: str) -> Features:
        """Return features whose draws are public: of procedural faces, or of a protection without a formal guarantee.

        A protection that keeps one draw per image has one here too; else every use draws afresh.

        Args:
            faces: the images.
            where: whose they are; draws of two places differ.
        """
        protection, phase, seed = self.federation.protection, self.stage.phase, self.federation.settings.seed
        trained: Any = protection.training_features if phase is None else phase.features

        def prepare(index: NDArray[np.int64]) -> torch.Tensor | None:
            found: torch.Tensor | None = protection.prepared(torch.from_numpy(faces.images(index)), self.state)
            return found

        prepared, records = SHELF.of(self.mechanism, faces.keys, prepare), faces.records

        @functools.cache
        def person(label: int) -> bytes:  # by client and name: local numbers would collide across clients
            return randomness.test_key(seed, "person", where, faces.names[label])

        def features(index: NDArray[np.int64], step: int) -> torch.Tensor:
            uses: Iterable[tuple[str | int, ...]] = ((where, step, place) for place in range(len(index)))
            if protection.memoise:
                uses = (("image", records[int(i)]) for i in index)
            keys = (randomness.test_key(seed, "draw", *use) for use in uses) if protection.noise else ()
            streams = [randomness.SecretStream(key) for key in keys]
            people = [person(int(label)) for label in faces.labels[index]]
            visit = Visit(streams, people, prepared(index) if phase is None else None)
            fed: torch.Tensor = trained(torch.from_numpy(faces.images(index)), self.state, visit)
            return fed

        return features


def joined(own: Features, count: int, public: Features) -> Features:
    """Return features of two sets: image numbers below `count` are the owner's, those from `count` on the bank's."""

    def features(index: NDArray[np.int64], step: int) -> torch.Tensor:
        mine = index < count
        if mine.all():
            return own(index, step)
        if not mine.any():
            return public(index - count, step)
        both = torch.cat([own(index[mine], step), public(index[~mine] - count, step)])
        order = np.argsort(np.concatenate([np.flatnonzero(mine), np.flatnonzero(~mine)]))
        return both[torch.from_numpy(order)]

    return features
