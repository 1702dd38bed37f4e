"""What an attacker trains on: pictures of his own people, and what leaves of them, drawn anew at every visit.

A network that sees one draw of each picture learns the draw. So a randomised protection is asked again at each step,
under a key that no other step has.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.attacks._target import Target
from fedveil.federation import training

Reads = Literal["features", "release"]
_ROOM = 512 * 2**20  # bytes of inputs that are kept
_BATCH = 64
_HELD_SHARE, _HELD_MOST = 0.1, 256


def parted(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the pictures to train on, and of those, of other people, that choose between networks.

    Args:
        labels: (N,) who is on the attacker's pictures; two people or more.
        seed: public seed.
    """
    people = randomness.public_rng(seed, "attack", "held out").permutation(np.unique(labels))
    held = np.isin(labels, people[: max(1, round(_HELD_SHARE * people.size))])
    return np.flatnonzero(~held), np.flatnonzero(held)[:_HELD_MOST]


def whole_people(labels: NDArray[np.int64], images: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers of at most so many pictures, all those of some people; at least two people's."""
    people, counts = np.unique(labels, return_counts=True)
    order = randomness.public_rng(seed, "attack", "set size").permutation(people.size)
    enough = int(np.searchsorted(np.cumsum(counts[order]), images, side="right"))
    return np.flatnonzero(np.isin(labels, people[order[: max(2, enough)]]))


@dataclasses.dataclass(frozen=True, eq=False)
class Releases:
    """Inputs of an attacker's network, made of pictures by the attacked protection.

    Attributes:
        target: the attacked run.
        seed: public seed.
        what: purpose of the draws; two of them share no draw.
        reads: "features": what the recogniser is fed of a release; "release": what leaves, as it is.
        clean: take the representation without its randomness or adversarial part, as a static attacker does.
        redrawn: share of the visits of a picture that draw anew, in (0, 1]; the others take its last draw.
    """

    target: Target
    seed: int
    what: str
    reads: Reads = "features"
    clean: bool = False
    redrawn: float = 1.0

    @property
    def random(self) -> bool:
        """Whether two visits of a picture differ."""
        return bool(self.target.protection.noise) and not self.clean

    def of(self, images: NDArray[np.uint8], *labels: str | int) -> torch.Tensor:
        """Return (B, C, h, w) the inputs of pictures (B, 3, H, W), where networks are; other labels, other draws."""
        parts = []
        for start in range(0, len(images), _BATCH):
            part = np.ascontiguousarray(images[start : start + _BATCH])
            if self.clean:
                state = self.target.place.state(self.target.state)
                left = self.target.protection.clean(self.target.place.put(part), state)
            else:
                left = self.target.release(part, self.seed, self.what, *labels, start)
            parts.append(self.seen(left))
        return torch.cat(parts)

    def seen(self, left: torch.Tensor) -> torch.Tensor:
        """Return the inputs of what left, where networks are."""
        return self.target.place.fed(left if self.reads == "release" else self.target.features(left)).float()

    def batches(
        self, images: NDArray[np.uint8], answers: torch.Tensor, size: int, steps: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (inputs, answers) of `steps` batches; passes over the pictures in random orders.

        Args:
            images: (N, 3, H, W).
            answers: (N, ...) what the network is to say of each, where networks are.
            size: pictures in a batch.
            steps: batches.
        """
        kept: torch.Tensor | None = None
        there = np.zeros(len(images), bool)
        for step, index in enumerate(training.batch_indices(len(images), size, self.seed, self.what, steps=steps)):
            where = torch.from_numpy(index).to(answers.device)
            new = ~there[index]
            if self.random:
                new[: math.ceil(self.redrawn * len(index))] = True
            if not new.all():
                assert kept is not None
                inputs = kept[where].clone()
                if new.any():
                    chosen = torch.from_numpy(np.flatnonzero(new)).to(answers.device)
                    inputs[chosen] = self.of(images[index[new]], "step", step)
            else:
                inputs = self.of(images[index], "step", step)
            if kept is None and self._keeps(inputs[0].numel(), len(images)):
                kept = torch.empty(len(images), *inputs.shape[1:], device=inputs.device)
            if kept is not None:
                kept[where], there[index] = inputs, True
            yield inputs, answers[where]

    def _keeps(self, numbers: int, images: int) -> bool:
        return (not self.random or self.redrawn < 1.0) and 4 * numbers * images <= _ROOM
