"""The linear estimates of a picture that an attacker has, and the choice among them on people of his own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, randomness
from fedveil.attacks._linear_known import Known, pictures
from fedveil.attacks._linear_learnt import Dual, Local, View
from fedveil.attacks._linear_prior import learn
from fedveil.attacks._people import People
from fedveil.attacks._target import Target
from fedveil.attacks.base import OnFaces, Progress
from fedveil.evaluation import reconstruction

Recover = Callable[[torch.Tensor], torch.Tensor]

_HELD, _HELD_SHARE = 100, 5  # pictures that choose, at most; every fifth person's
_PRIOR, _EXAMPLES, _CHUNK = 1200, 48, 32
_DRAWS, _ROWS = 3, 2500  # of each picture, where a release is random; of all pictures together
_PLACES, _COARSE = 64, 4  # channels' statistics come from so many pictures; pixels to a side of a coarse view


@dataclasses.dataclass(frozen=True)
class Wanted(OnFaces):
    """The settings of the attack.

    Attributes:
        components: principal components of his own people in the prior.
        reach: pixels to each side that the learnt filter sees.
        samples: pixels that the filter is learnt from.
        floats: numbers of all learnt-from releases that are kept in memory, at most; more pictures are left out.
    """

    components: int = 200
    reach: int = 1
    samples: int = 100_000
    floats: int = 250_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(components=self.components, samples=self.samples, floats=self.floats)
        checks.non_negative(reach=self.reach)


@dataclasses.dataclass(frozen=True, eq=False)
class Own:
    """The attacker's pictures, uint8 (N, 3, H, W): those that he learns from, and other people's that choose."""

    trained: NDArray[np.uint8]
    held: NDArray[np.uint8]

    @classmethod
    def of(cls, people: People, seed: int) -> Own:
        """Return the attacker's people, cut in two by a public draw; nobody is in both parts."""
        count = int(people.labels.max()) + 1
        order = randomness.public_rng(seed, "attack linear", "held out").permutation(count)
        held = np.isin(people.labels, order[: max(1, count // _HELD_SHARE)])
        return cls(people.attacker[~held], people.attacker[held][:_HELD])


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """One way to a picture.

    Attributes:
        name: of it.
        said: what it is, after "by".
        recover: from releases (B, *representation) on the host to RGB (B, 3, H, W), not rounded.
    """

    name: str
    said: str
    recover: Recover


def known_of(target: Target, wanted: Wanted, own: Own) -> Known | None:
    """Return what is publicly known of a linear protection, with the prior of the attacker's people; else None."""
    described = target.protection.linear(target.size, target.state)
    if described is None:
        return None
    example = target.release(own.trained[:_EXAMPLES], wanted.seed, "examples").cpu()
    return Known(described, target.size, learn(own.trained[:_PRIOR], wanted.components), example)


def by_known(known: Known) -> list[Estimate]:
    """Return the estimates that invert a public map."""
    guess = known.prior.mean.mean((1, 2))
    return [
        Estimate(
            "least_squares", "least squares, which needs no picture but for its level",
            lambda released: pictures(known.levelled(known.least_squares(released), guess)),
        ),
        Estimate(
            "posterior", "the best linear estimate under a prior of his own people",
            lambda released: pictures(known.posterior(released)),
        ),
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Learnt:
    """Releases of the attacker's own pictures, ready to learn a linear map from.

    Attributes:
        views: what of a release is seen, by name.
        features: for each view (draws * N, c, h, w) float32; the first N rows are the first draws.
        targets: (N, 3, H, W) float32, the pictures.
        kept: for each view, the features of other people.
        others: (M, 3, H, W) float32, their pictures.
    """

    views: Mapping[str, View]
    features: Mapping[str, torch.Tensor]
    targets: torch.Tensor
    kept: Mapping[str, torch.Tensor]
    others: torch.Tensor

    def regression(self, view: str, pictures: int | None = None) -> tuple[Recover, float]:
        """Return ridge regression from whole releases, learnt from the first of the pictures (None: all).

        The second is its mean squared error on other people of the attacker's.
        """
        count, features = len(self.targets), self.features[view]
        draws = len(features) // count
        if pictures is not None:
            features = features[(torch.arange(draws)[:, None] * count + torch.arange(pictures)).flatten()]
        answers = self.targets[: pictures or count].flatten(1).repeat(draws, 1)
        dual = Dual(features.flatten(1), answers, (self.kept[view].flatten(1), self.others.flatten(1)))
        shape = self.targets.shape[1:]
        return lambda released: dual(self.views[view](released).flatten(1)).view(-1, *shape), dual.error

    def filtered(self, wanted: Wanted) -> Recover:
        """Return one filter for all pixels."""
        generator = randomness.public_torch(wanted.seed, "attack linear", "pixels")
        features = self.features["whole"]
        targets = self.targets.repeat(len(features) // len(self.targets), 1, 1, 1)
        local = Local(features, targets, (self.kept["whole"], self.others), wanted.reach, wanted.samples, generator)
        return lambda released: local(self.views["whole"](released))


def learnt(target: Target, wanted: Wanted, own: Own, progress: Progress) -> Learnt:
    """Return the attacker's own releases: of as many pictures as fit, with fresh draws where a release is random."""
    first = target.release(own.trained[:_PLACES], wanted.seed, "statistics").cpu()
    views = {"whole": View.of(first), "coarse": View.of(first, _COARSE)}
    if target.protection.noise and first.shape[1] > 3:
        views["by_energy"] = View.of(first, _COARSE, by_energy=True)
    seen = {name: view(first[:1])[0] for name, view in views.items()}
    rows = max(2, min(_ROWS, wanted.floats // sum(one.numel() for one in seen.values())))
    count = min(len(own.trained), rows)
    draws = max(1, min(_DRAWS, rows // count)) if target.protection.noise else 1
    features = {name: torch.empty(draws * count, *one.shape) for name, one in seen.items()}
    for draw in range(draws):
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            released = target.release(own.trained[start:stop], wanted.seed, "own", draw, start).cpu()
            for name, view in views.items():
                features[name][draw * count + start : draw * count + stop] = view(released)
            progress("protecting his own pictures", draw * count + stop, draws * count)
    held = target.release(own.held, wanted.seed, "held out").cpu()
    kept = {name: view(held) for name, view in views.items()}
    pictures, others = (torch.from_numpy(part).float() for part in (own.trained[:count], own.held))
    return Learnt(views, features, pictures, kept, others)


def by_learning(own: Learnt, wanted: Wanted) -> tuple[list[Estimate], str]:
    """Return the estimates that are learnt, and the view from which regression does best on held-out people."""
    said = {
        "whole": "ridge regression from releases of his own people",
        "coarse": "ridge regression from coarse releases of his own people",
        "by_energy": "ridge regression from coarse releases of his own people, channels in the order of their energy",
    }
    made = {name: own.regression(name) for name in own.views}
    found = [Estimate(f"regression_{name}", said[name], recover) for name, (recover, _) in made.items()]
    filtered = Estimate("filter", "one filter for all pixels, learnt from his own people", own.filtered(wanted))
    return [*found, filtered], min(made, key=lambda name: made[name][1])


def chosen(
    estimates: Sequence[Estimate], target: Target, wanted: Wanted, own: Own
) -> tuple[Estimate, dict[str, float]]:
    """Return the estimate that recovers held-out people of the attacker best, and all their PSNR there, in dB.

    No victim has a part in the choice.
    """
    released = target.release(own.held, wanted.seed, "choice").cpu()
    original = torch.from_numpy(own.held)
    found = {
        estimate.name: float(reconstruction.psnr(seen(estimate.recover(released)), original).mean())
        for estimate in estimates
    }
    return max(estimates, key=lambda estimate: found[estimate.name]), found


def seen(images: torch.Tensor) -> torch.Tensor:
    """Return pictures within 0..255, not rounded."""
    return images.nan_to_num(0.0).clamp(0, 255)
