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
_ROOM = 2**30  # bytes of inputs that are kept
_DEAR = 0.1
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
        redrawn: share of the visits of a picture that draw anew, in (0, 1]; the others take its last draw. None: all,
            or a tenth where the release runs a network, which costs as much as the attack itself.
    """

    target: Target
    seed: int
    what: str
    reads: Reads = "features"
    clean: bool = False
    redrawn: float | None = None

    @property
    def share(self) -> float:
        """The share of visits that draw anew; 0 where two draws do not differ."""
        if self.clean or not self.target.protection.noise:
            return 0.0
        if self.redrawn is not None:
            return self.redrawn
        learnt = any(tensor.ndim == 4 for tensor in self.target.state.values())  # a convolution's kernels
        return _DEAR if learnt else 1.0

    @property
    def said(self) -> tuple[str, ...]:
        """A note on visits that did not draw anew, if there were any."""
        if self.share in (0.0, 1.0):
            return ()
        return (f"{100 * self.share:.0f} % of visits drew anew; the others took the picture's last draw.",)

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


class Stream:
    """Batches of (inputs, answers) without end, in one random order of the pictures after another.

    Inputs that are not drawn anew are kept from visit to visit in half precision, as many as 1 GiB holds.

    Args:
        releases: makes the inputs.
        images: (N, 3, H, W).
        answers: (N, ...) what the network is to say of each, where networks are.
    """

    def __init__(self, releases: Releases, images: NDArray[np.uint8], answers: torch.Tensor) -> None:
        self.releases, self.images, self.answers = releases, images, answers
        self._kept: dict[int, torch.Tensor] = {}
        self._room = _ROOM if releases.share < 1.0 else 0

    def batches(self, size: int, steps: int, what: str = "") -> Generator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield `steps` batches of `size`; another `what` has other orders and draws."""
        seed, labels = self.releases.seed, (self.releases.what, what)
        for step, index in enumerate(training.batch_indices(len(self.images), size, seed, *labels, steps=steps)):
            new = np.array([number not in self._kept for number in index.tolist()])
            new[: math.ceil(self.releases.share * len(index))] = True
            drawn = iter(self.releases.of(self.images[index[new]], what, step) if new.any() else ())
            parts = []
            for number, fresh in zip(index.tolist(), new.tolist(), strict=True):
                parts.append(self._keep(number, next(drawn)) if fresh else self._kept[number].float())
            yield torch.stack(parts), self.answers[torch.from_numpy(index).to(self.answers.device)]

    def _keep(self, number: int, part: torch.Tensor) -> torch.Tensor:
        """Return the inputs of a picture, as they are kept where there is room for them."""
        half = part.half()
        if number not in self._kept:
            if self._room < half.nbytes:
                return part
            self._room -= half.nbytes
        self._kept[number] = half
        return half.float()
