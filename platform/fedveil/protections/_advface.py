"""AdvFace's parts: the client's first layers, what public faces teach, the ascent that fools the shadow model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil.configuration import plugins
from fedveil.models.backbones import _ir
from fedveil.models.heads import base as heads
from fedveil.protections._learn import Adam
from fedveil.protections.base import Progress

_BATCHES, _PIXELS = (8, 32), 80_000  # smallest and largest batch; in between as many pictures as have that many pixels
_EMBEDDING = 64
_POOLED = 4  # side of the map that the public tail flattens, whatever the picture's size
_RECOGNITION_LR, _SHADOW_LR = 2e-3, 2e-3
_SMALLEST_VARIANCE = 1e-12  # so that features can be divided by the spread of a single grey picture

Loss = Callable[[torch.Tensor], torch.Tensor]


class Stem(nn.Module):
    """f1, the client's part: 3x3 convolution, norm, PReLU, one IR unit of stride 2; the output is signed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm = _ir.group_norm(width)
        self.act = nn.PReLU(width)
        self.unit = _ir.IRUnit(width, width, 2, published=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, width, H / 2, W / 2) from unit-scaled pixels (B, 3, H, W)."""
        return cast(torch.Tensor, self.unit(self.act(self.norm(self.conv(x)))))


class Tail(nn.Module):
    """A small public stand-in for f2, for maps of any size: two IR units, a 4x4 average, a linear map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.units = nn.Sequential(
            _ir.IRUnit(width, 2 * width, 2, published=False), _ir.IRUnit(2 * width, 4 * width, 2, published=False)
        )
        self.embed = nn.Linear(4 * width * _POOLED**2, _EMBEDDING)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, 64), not normalised."""
        pooled = _pooled(self.units(x))
        return cast(torch.Tensor, self.embed(pooled.flatten(1)))


def _pooled(x: torch.Tensor) -> torch.Tensor:
    """Return `adaptive_avg_pool2d(x, 4)`; on a GPU by products, because that function's gradient there adds at random.

    >>> x = torch.arange(2.0 * 5 * 7).view(1, 2, 5, 7)
    >>> torch.allclose(_shares(5, x) @ x @ _shares(7, x).T, functional.adaptive_avg_pool2d(x, 4))
    True
    """
    if x.device.type == "cpu":
        return functional.adaptive_avg_pool2d(x, _POOLED)
    return _shares(x.shape[2], x) @ x @ _shares(x.shape[3], x).T


def _shares(side: int, like: torch.Tensor) -> torch.Tensor:
    """Return the (4, side) weights with which each of the four cells averages."""
    found = torch.zeros(_POOLED, side)
    for cell in range(_POOLED):
        first, last = cell * side // _POOLED, -(-(cell + 1) * side // _POOLED)
        found[cell, first:last] = 1.0 / (last - first)
    return found.to(like)


class Whole(nn.Module):
    """f1 and the recogniser behind it as one network, for their joint training; `scale` is a public constant."""

    def __init__(self, f1: nn.Module, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.f1, self.model, self.scale = f1, model, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the recogniser's (B, D) from unit-scaled pixels."""
        return cast(torch.Tensor, self.model(self.f1(x) / self.scale))


@dataclasses.dataclass
class Ticker:
    """Counts the steps of several trainings for one bar."""

    progress: Progress | None
    total: int
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def skeleton(kind: type[nn.Module], width: int) -> nn.Module:
    """Return a `Stem` or `Tail` without memory for its parameters."""
    with torch.device("meta"):
        return kind(width)


def _batch(images: torch.Tensor) -> int:
    return min(len(images), max(_BATCHES[0], min(_BATCHES[1], _PIXELS // (images.shape[2] * images.shape[3]))))


def unit(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 pixels as float32 in [-1, 1]."""
    return (images.float() - 127.5) / 127.5


def values(network: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """Return copies of the parameters as `<prefix>/<name>`."""
    return {f"{prefix}/{name}": value.detach().clone() for name, value in network.named_parameters()}


def with_values(network: nn.Module, state: Mapping[str, torch.Tensor], prefix: str) -> nn.Module:
    """Return the skeleton with the state's `<prefix>/` tensors (no copies), which no graph will reach."""
    head = f"{prefix}/"
    own = {name.removeprefix(head): value for name, value in state.items() if name.startswith(head)}
    network.load_state_dict(own, assign=True)
    return network.requires_grad_(False)


def learn_recognition(
    stem: nn.Module,
    tail: nn.Module,
    trained: Iterable[torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    generator: torch.Generator,
    tick: Callable[[], None],
) -> None:
    """Train `trained`, parameters of the two networks, by a margin softmax over the public people (N,) 0..K-1."""
    head = plugins.build("head", "cosface", {"scale": 24.0, "margin": 0.2})
    centres = torch.randn(int(labels.max()) + 1, _EMBEDDING, generator=generator).to(images.device)
    centres.requires_grad_(True)
    optimiser = Adam([([*trained, centres], _RECOGNITION_LR)])
    for _ in range(steps):
        chosen = torch.randint(len(labels), (_batch(images),), generator=generator)
        loss = heads.loss(head, tail(stem(unit(images[chosen]))), centres, labels[chosen])
        torch.autograd.backward(loss)
        optimiser.step()
        tick()


def learn_shadow(
    stem: nn.Module,
    shadow: nn.Module,
    images: torch.Tensor,
    power: int,
    steps: int,
    generator: torch.Generator,
    tick: Callable[[], None],
) -> None:
    """Train the shadow model on (f1(x), x) by the mean of |S(f1(x)) - x|^power; f1 stays as it is."""
    optimiser = Adam([([*shadow.parameters()], _SHADOW_LR)])
    for _ in range(steps):
        chosen = torch.randint(len(images), (_batch(images),), generator=generator)
        target = unit(images[chosen])
        with torch.no_grad():
            z = stem(target)
        loss = (shadow(z) - target).abs().pow(power).mean()
        torch.autograd.backward(loss)
        optimiser.step()
        tick()


@torch.no_grad()
def spread(stem: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return sigma_z: the standard deviation of all values of f1 over the public faces, a scalar."""
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(images), _BATCHES[1]):
        z = stem(unit(images[start : start + _BATCHES[1]])).double()
        count, total, squares = count + z.numel(), total + float(z.sum()), squares + float(z.square().sum())
    variance = max(squares / count - (total / count) ** 2, _SMALLEST_VARIANCE)
    return torch.tensor(variance**0.5, dtype=torch.float32)


def objective(
    variant: str, z: torch.Tensor, stem: nn.Module, shadow: nn.Module, tail: nn.Module | None, guard: float
) -> Loss:
    """Return what the noise is to raise, a function of delta (B, C, h, w), summed over images that do not interact.

    cycle: |S(f1(S(z)) + delta) - S(z)|^2; direct: |S(z + delta) - S(z)|^2; both as a mean over the values of a picture.
    With a guard the term -guard * (1 - cos(e(z + delta), e(z))) is added, e the public tail.
    """
    with torch.no_grad():
        target = shadow(z)
        around = stem(target) if variant == "cycle" else z
        template = None if tail is None else heads.normalised(tail(z))

    def loss(delta: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = (shadow(around + delta) - target).square().mean((1, 2, 3))
        if tail is not None and template is not None:
            cosine = (heads.normalised(tail(z + delta)) * template).sum(1)
            value = value - guard * (1.0 - cosine)
        return value.sum()

    return loss


@torch.enable_grad()
def ascend(loss: Loss, start: torch.Tensor, radius: float, steps: int) -> torch.Tensor:
    """Return delta after `steps` sign-gradient steps of 2.5 radius / steps, each cut back to |delta| <= radius."""
    delta = start.clamp(-radius, radius)
    for _ in range(steps):
        leaf = delta.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        delta = (leaf.detach() + (2.5 * radius / steps) * gradient.sign()).clamp(-radius, radius)
    return delta.detach()
