"""What a stage's network is fed of a client's images: kept copies, fresh noise, or public draws; free of Flower."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import device, randomness
from fedveil.data.faces import FaceSet
from fedveil.federation.federation import Federation
from fedveil.federation.schedule import Stage
from fedveil.protections.base import Visit
from fedveil_clients.augmentation import Augmentation, flipped
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
        place: where the features are computed and fed.
    """

    federation: Federation
    stage: Stage
    state: Mapping[str, torch.Tensor]
    mechanism: bytes
    place: device.Place = device.HOST

    @functools.cached_property
    def placed(self) -> Mapping[str, torch.Tensor]:
        """The state where protections run."""
        return self.place.state(self.state)

    def _varied(self, where: str) -> Augmentation:
        settings = self.federation.settings
        return Augmentation(settings.train.augment, settings.seed, where)

    def kept(self, copies: Copies, where: str) -> Features:
        """Return the features of noisy copies of the client `where`: nothing else is read of those images."""
        varied = self._varied(where)

        def memoised(index: NDArray[np.int64], step: int) -> torch.Tensor:
            return self._fed(self.place.put(copies.batch(index).numpy()), varied.mirrored(step, len(index)))

        return memoised

    def afresh(self, faces: FaceSet, key: bytes, where: str) -> Features:
        """Return features under noise that is drawn at every reading, from a secret key of this opening alone."""
        varied = self._varied(where)

        def noised(index: NDArray[np.int64], step: int) -> torch.Tensor:
            streams = [randomness.SecretStream(randomness.subkey(key, step, place)) for place in range(len(index))]
            images = self.place.put(varied.distorted(faces.images(index), step))
            released = self.federation.protection.release(images, self.placed, streams)
            return self._fed(released, varied.mirrored(step, len(index)))

        return noised

    def _fed(self, released: torch.Tensor, mirrored: NDArray[np.bool_]) -> torch.Tensor:
        """Return the features of what left, some of it mirrored: a function of what left and of public coins."""
        if mirrored.any():
            which = torch.from_numpy(mirrored)[:, None, None, None].to(released.device)
            released = torch.where(which, self.federation.protection.mirrored(released), released)
        found: torch.Tensor = self.federation.protection.features(released, self.placed)
        return self.place.fed(found)

    def empirical(self, faces: FaceSet, where: str, keys: Sequence[str] | None = None) -> Features:
        """Return features whose draws are public: of procedural faces, or of a protection without a formal guarantee.

        A protection that keeps one draw per image has one here too; else every use draws afresh.

        Args:
            faces: the images.
            where: whose they are; draws of two places differ.
            keys: of the images, where they are known already.
        """
        protection, phase, seed = self.federation.protection, self.stage.phase, self.federation.settings.seed
        trained: Any = protection.training_features if phase is None else phase.features
        varied, count = self._varied(where), len(faces)

        def prepare(index: NDArray[np.int64]) -> torch.Tensor | None:  # from `count` on, the mirrored images
            pixels = flipped(faces.images(index % count), index >= count)
            found: torch.Tensor | None = protection.prepared(self.place.put(pixels), self.placed)
            return None if found is None else found.cpu()

        names = faces.keys if keys is None else keys
        records = faces.records if protection.memoise else ()
        if varied.settings.flip:
            names = (*names, *(f"{key}\0mirrored" for key in names))
        prepared = SHELF.of(self.mechanism, names, prepare)

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
            mirrored = varied.mirrored(step, len(index))
            pixels = varied.distorted(flipped(faces.images(index), mirrored), step)
            once = phase is None and not varied.distorts  # what is prepared serves every visit of an image
            rows = prepared(index + count * mirrored) if once else None
            visit = Visit(streams, people, None if rows is None else self.place.put(rows.numpy()))
            fed: torch.Tensor = trained(self.place.put(pixels), self.placed, visit)
            return self.place.fed(fed)

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
        return both[torch.from_numpy(order).to(both.device)]

    return features
