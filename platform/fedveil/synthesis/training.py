"""Learning a generator from public faces in one place: Adam, averaged parameters, and a state to go on from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, config, randomness, runs
from fedveil.attacks.base import Progress, silent
from fedveil.data.faces import FaceSet
from fedveil.device import Place, autocast
from fedveil.federation import training
from fedveil.generators._network import Generator

_DECAYS = (0.9, 0.99)
_WARM_UP = 100  # steps over which the learning rate rises


@dataclasses.dataclass(frozen=True)
class Training:
    """How a generator is learnt from public faces.

    Attributes:
        steps: of Adam.
        batch_size: images a step.
        lr: learning rate after the warm-up.
        average: weight of the past in the averaged parameters, which are the result.
        own: how often a picture's own identity is told, and not its person's mean.
        every: steps between two states that an interrupted training goes on from.
    """

    steps: int = 4000
    batch_size: int = 32
    lr: float = 1e-3
    average: float = 0.998
    own: float = 0.5
    every: int = 200

    def __post_init__(self) -> None:
        checks.positive(steps=self.steps, batch_size=self.batch_size, lr=self.lr, every=self.every)
        checks.fraction(own=self.own)
        if not 0 <= self.average < 1:
            raise checks.UserError(f"Expected synthesis.average={self.average!r} in [0, 1).")


def train(
    generator: Generator, faces: FaceSet, wanted: Training, seed: int, kept: Path, place: Place,
    progress: Progress = silent,
) -> None:  # fmt: skip
    """Train a generator in place on public faces, and leave the averaged parameters in it.

    What is drawn is a function of (seed, step), so a training that was interrupted and goes on from `kept` ends with
    equal bits.

    Args:
        generator: untrained, around a trained recogniser.
        faces: whose people are public.
        wanted: how.
        seed: public seed.
        kept: file of the state between steps.
        place: where it is trained.
        progress: is shown the steps.

    Raises:
        fedveil.checks.UserError: it diverged, or `kept` is another training's.
    """
    people, labels = np.unique(faces.labels, return_inverse=True)
    generator = place.module(generator)
    means = _means(generator, faces, labels, int(people.size), place)
    state = _State(generator, wanted, _recipe(generator, wanted, faces, seed))
    state.load(kept)
    indices = training.batch_indices(
        len(faces), wanted.batch_size, seed, "generator", start_step=state.step, steps=wanted.steps - state.step
    )
    for step, index in enumerate(indices, state.step):
        coins = randomness.public_torch(seed, "generator", step)
        flips = torch.rand(len(index), generator=coins) < 0.5
        own = torch.rand(len(index), generator=coins) < wanted.own
        pixels = in_range(place.put(faces.images(index)))
        pixels = torch.where(flips[:, None, None, None].to(pixels.device), pixels.flip(3), pixels)
        with torch.no_grad():
            mean = means[torch.from_numpy(labels[index]).to(means.device)]
            identity = torch.where(own[:, None].to(mean.device), generator.embed(pixels), mean)
        with autocast(place.precision, place.device):
            loss = generator.losses(generator.drawn(pixels, coins), identity).mean()
        state.take(loss)
        progress("training the generator", step + 1, wanted.steps)
        if state.step % wanted.every == 0 or state.step == wanted.steps:
            training.check_finite(float(loss.detach()), state.parameters, **{"synthesis.lr": wanted.lr})
            state.save(kept)
    state.finish()


def in_range(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images (B, 3, H, W) as floats in [-1, 1]."""
    return images.float().sub(127.5).div(127.5)


def pixels_of(faces: FaceSet, place: Place) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """Yield places (B,) and pixels (B, 3, H, W) in [-1, 1] of all readable faces."""
    for index, images, _ in faces.batches():
        yield index, in_range(place.put(images))


@torch.no_grad()
def _means(
    generator: Generator, faces: FaceSet, labels: NDArray[np.int64], people: int, place: Place
) -> torch.Tensor:
    total = torch.zeros(people, generator.dimension, device=place.device)
    for index, pixels in pixels_of(faces, place):
        total.index_add_(0, torch.from_numpy(labels[index]).to(total.device), generator.embed(pixels))
    return torch.nn.functional.normalize(total, dim=1, eps=1e-6)


def _recipe(generator: Generator, wanted: Training, faces: FaceSet, seed: int) -> str:
    """Return what stands for everything that a training depends on."""
    own = [generator.dropout, generator.kappa, generator.reconstruction, generator.share, len(generator.alphas)]
    shapes = {name: [*tensor.shape] for name, tensor in generator.named_parameters()}
    return config.hashed([dataclasses.asdict(wanted), seed, own, shapes, faces.keys, faces.labels.tolist()])


class _State:
    """Parameters, moments and averages: everything that the next step depends on."""

    def __init__(self, generator: Generator, wanted: Training, recipe: str) -> None:
        self.step, self.parameters = 0, list[torch.Tensor](generator.denoiser.parameters())
        self._wanted, self._recipe = wanted, recipe
        self._optimiser = torch.optim.AdamW(self.parameters, wanted.lr, _DECAYS, weight_decay=0.0)
        self._average = [tensor.detach().clone() for tensor in self.parameters]

    def take(self, loss: torch.Tensor) -> None:
        """Take one step down the loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._wanted.lr * min(1.0, (self.step + 1) / _WARM_UP)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimiser.step()
        self.step += 1
        past = min(self._wanted.average, self.step / (self.step + 10))  # the first values weigh little
        with torch.no_grad():
            torch._foreach_mul_(self._average, past)
            torch._foreach_add_(self._average, self.parameters, alpha=1 - past)

    def finish(self) -> None:
        """Put the averages where the parameters are."""
        with torch.no_grad():
            for tensor, mean in zip(self.parameters, self._average, strict=True):
                tensor.copy_(mean)

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {}
        for number, (tensor, mean) in enumerate(zip(self.parameters, self._average, strict=True)):
            moments = self._optimiser.state[tensor]
            kept = {"value": tensor, "mean": mean, "first": moments["exp_avg"], "second": moments["exp_avg_sq"]}
            arrays |= {f"{number}/{name}": value.detach().cpu().numpy() for name, value in kept.items()}
        runs.write_packed(path, arrays, {"step": self.step, "recipe": self._recipe})

    def load(self, path: Path) -> None:
        """Take up the state of a file, if there is one.

        Raises:
            fedveil.checks.UserError: it is another training's, or damaged.
        """
        if not path.is_file():
            return
        remedy = "Remove it to train anew."
        arrays, meta = runs.unpack(path, "state of a generator's training", remedy)
        if meta.get("recipe") != self._recipe:
            raise checks.UserError(f"{path} is the state of another training: its settings or faces differ. {remedy}")
        self.step = int(meta["step"])
        for number, (tensor, mean) in enumerate(zip(self.parameters, self._average, strict=True)):
            own = {name: torch.from_numpy(arrays[f"{number}/{name}"]) for name in ("value", "mean", "first", "second")}
            with torch.no_grad():
                tensor.copy_(own["value"])
                mean.copy_(own["mean"])
            self._optimiser.state[tensor] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": own["first"].to(tensor.device),
                "exp_avg_sq": own["second"].to(tensor.device),
            }


