"""Small targets: a protection that hides nothing, and one whose release has nothing to do with the picture."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedveil.attacks._target import Target
from fedveil.federation.federation import Federation
from fedveil.privacy.events import NonPrivate
from fedveil.protections.base import Protection, State
from fedveil.randomness import SecretStream

sys.path.append(str(Path(__file__).parent))  # for `easy`, which the tests of networks share

WORDS = [
    "protection=none", "tracking=none", "engine=inline", "data.identities=12", "data.images_per_identity=4",
    "data.evaluation_identities=12", "data.public_identities=12",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PureNoise(Protection):
    """What leaves is noise; whatever is found in it is a fault of the attack."""

    @property
    def noise(self) -> str:
        return "normal"

    def representation(self, size: tuple[int, int]) -> tuple[int, int, int]:
        return (3, *size)

    layout = representation

    def release(self, images: torch.Tensor, state: State, streams: Sequence[SecretStream]) -> torch.Tensor:
        shape = images.shape[1:]
        drawn = [torch.from_numpy(stream.uniform(shape.numel())).view(shape) for stream in streams]
        return 255 * torch.stack(drawn).float()

    def clean(self, images: torch.Tensor, state: State) -> torch.Tensor:
        return torch.full(images.shape, 127.5)

    def features(self, released: torch.Tensor, state: State) -> torch.Tensor:
        return (released - 127.5) / 127.5

    def render(self, released: torch.Tensor, state: State, size: tuple[int, int]) -> torch.Tensor:
        return released.round().to(torch.uint8)

    def unprotected(self, state: State) -> NonPrivate:
        return NonPrivate("image", "the release", "a test")


@pytest.fixture(scope="session")
def target_of() -> Callable[..., Target]:
    """Return a function from words to a target whose recogniser is untrained; `noise=True` takes the picture away."""

    def make(*words: str, noise: bool = False) -> Target:
        federation = Federation.of([*WORDS, *words])
        if noise:
            federation.__dict__["protection"] = PureNoise()
        public: Any = federation.split.public
        state = federation.protection.fit(public.images(), np.asarray(public.labels), 1)
        return Target(federation, state, federation.backbone().eval())

    return make
