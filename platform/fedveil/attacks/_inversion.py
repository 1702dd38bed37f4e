"""What an update was computed from: inputs whose simulated local steps give the observed one.

The cosine of simulated and observed update is maximised beside a total variation (Geiping et al. 2020,
https://arxiv.org/abs/2003.14053). Several local steps are simulated and differentiated through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional
from torch.func import functional_call

from fedveil.attacks._inversion_steps import Known, Work, cosine, embedding_bias, norm, simulated
from fedveil.records import Tensors

_FALLS = (3 / 8, 5 / 8, 7 / 8)  # of the iterations, after each of which steps are a tenth as long
_SLOPES_LR = 0.05
_EXACT = 4  # the exact simulation of several steps has a share of the iterations, and steps as much shorter
_APART = 0.3  # how differently the images of one update begin


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """What the attacker knows of inputs from public faces: mean (1, C, H, W), spread and limits (1, C, 1, 1)."""

    mean: torch.Tensor
    spread: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> Prior:
        """Return the prior of public inputs (N, C, H, W), two or more."""
        spread = 2 * features.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
        low, high = features.amin((0, 2, 3), keepdim=True), features.amax((0, 2, 3), keepdim=True)
        return cls(features.mean(0, keepdim=True), spread, low, high)


@dataclasses.dataclass(frozen=True)
class Search:
    """How long and how is looked for inputs.

    Attributes:
        iterations: of each restart.
        restarts: how often; the one that explains the update best is taken. The first begins at the mean public face,
            the others at noise.
        lr: step in units of the prior's spread.
        total_variation: its weight beside the cosine.
    """

    iterations: int
    restarts: int
    lr: float
    total_variation: float


def inverted(
    work: Work, update: Tensors, count: int, prior: Prior, search: Search, generator: torch.Generator,
    known: Known | None = None, step: Callable[[], None] = lambda: None,
) -> torch.Tensor:  # fmt: skip
    """Return inputs (count, C, H, W) that explain an update, in no order.

    Args:
        work: the local steps.
        update: what was observed of it.
        count: of images; known, as usual: trying a few numbers is cheap.
        prior: of inputs.
        search: how to look.
        generator: of the starts, on the host.
        known: what a white box has; None: class centres and labels are unknown.
        step: called after each iteration.
    """
    target = work.observed(update)
    found: tuple[torch.Tensor, float] | None = None
    for number in range(search.restarts):
        start = _start(prior, count, generator, number)
        one = _searched(work, target, start, prior, search, generator, known, step)
        if found is None or one[1] < found[1]:
            found = one
    assert found is not None
    return found[0]


def iterations_of(search: Search, steps: int, knows_head: bool) -> int:
    """Return how often `inverted` calls its `step`."""
    exact = -(-search.iterations // _EXACT) if steps > 1 or knows_head else 0
    return search.restarts * (search.iterations + exact)


def _start(prior: Prior, count: int, generator: torch.Generator, number: int) -> torch.Tensor:
    """Return where a restart begins: nothing but public faces and noise."""
    shape = (count, *prior.mean.shape[1:])
    noise = torch.randn(shape, generator=generator).to(prior.mean.device)
    apart = _APART if count > 1 else 0.0
    return prior.mean + prior.spread * noise * (apart if number == 0 else 1.0)


def _searched(
    work: Work, target: Sequence[torch.Tensor], start: torch.Tensor, prior: Prior, search: Search,
    generator: torch.Generator, known: Known | None, step: Callable[[], None],
) -> tuple[torch.Tensor, float]:  # fmt: skip
    """Look with one gradient in place of all steps and without a head; then, more shortly, with the work as it was.

    The first is cheap, and free slopes lead to a face more surely than a head does, whose slopes turn with each guess.
    """
    one, slopes = dataclasses.replace(work, steps=1), _slopes(work, target, start, generator)
    length = _length(one, target, start, slopes) / work.steps
    guess = _Guess(start, slopes, length)
    left = _improved(one, target, guess, prior, search, None, step)
    if work.steps > 1 or known is not None:
        exact = dataclasses.replace(search, iterations=-(-search.iterations // _EXACT), lr=search.lr / _EXACT)
        better = _Guess(guess.inputs, guess.slopes, guess.length)
        closer = _improved(work, target, better, prior, exact, known, step)
        if work.steps > 1 or closer < left:  # of one step both explain the same
            return better.inputs, closer
    return guess.inputs, left


@dataclasses.dataclass(eq=False)
class _Guess:
    """Inputs (B, C, H, W) and slopes (B, D), in units of `length`; `_improved` moves both."""

    inputs: torch.Tensor
    slopes: torch.Tensor
    length: float


def _improved(
    work: Work, target: Sequence[torch.Tensor], guess: _Guess, prior: Prior, search: Search, known: Known | None,
    step: Callable[[], None],
) -> float:  # fmt: skip
    """Move a guess by Adam on the signs of the gradient and return one minus the cosine that it ended with."""
    scaled = ((guess.inputs - prior.mean) / prior.spread).requires_grad_()
    slopes = guess.slopes.clone().requires_grad_()
    moved = [{"params": [scaled], "lr": search.lr}]
    if known is None and (len(scaled) > 1 or work.steps > 1):
        moved.append({"params": [slopes], "lr": _SLOPES_LR})
    optimiser = torch.optim.Adam(moved)
    falls = [round(search.iterations * share) for share in _FALLS]
    rates = torch.optim.lr_scheduler.MultiStepLR(optimiser, falls, 0.1)
    low, high = (prior.low - prior.mean) / prior.spread, (prior.high - prior.mean) / prior.spread
    left = 1.0
    for _ in range(search.iterations):
        inputs = prior.mean + prior.spread * scaled
        apart = 1 - cosine(simulated(work, inputs, guess.length * slopes, known), target)
        left = float(apart.detach())
        cost = apart + search.total_variation * _variation(inputs / prior.spread)
        gradients = torch.autograd.grad(cost, [scaled, slopes], allow_unused=True, materialize_grads=True)
        scaled.grad, slopes.grad = gradients[0].sign(), gradients[1]
        optimiser.step()
        rates.step()
        with torch.no_grad():
            scaled.clamp_(low, high)
        step()
    guess.inputs, guess.slopes = (prior.mean + prior.spread * scaled).detach(), slopes.detach()
    return left


def _variation(images: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of neighbours, down and across."""
    return (images.diff(dim=2)).abs().mean() + (images.diff(dim=3)).abs().mean()


def _slopes(
    work: Work, target: Sequence[torch.Tensor], start: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return (B, D) where the slopes begin, entries of about one: what the embedding's bias moved by, or noise."""
    with torch.no_grad():
        dimension = functional_call(work.network, dict(work.tensors), (start[:1],)).shape[1]
    noise = torch.randn(len(start), dimension, generator=generator).to(start.device)
    place = embedding_bias(work)
    if place is None:
        return noise
    moved = target[place]
    scaled = moved / moved.square().mean().sqrt().clamp(min=1e-20)
    return scaled + (noise if len(start) > 1 else 0.0)


def _length(work: Work, target: Sequence[torch.Tensor], start: torch.Tensor, slopes: torch.Tensor) -> float:
    """Return what slopes are multiplied by, so that the first simulation is as long as what was observed."""
    seen = norm([tensor.detach() for tensor in simulated(work, start, slopes)])
    return float(norm(target) / seen.clamp(min=1e-20))


def standardised(features: torch.Tensor, prior: Prior) -> torch.Tensor:
    """Return inputs in units of the prior, blurred four by four: what two pictures of one person share most of."""
    centred = (features - prior.mean) / prior.spread
    side = max(1, min(4, min(centred.shape[2:]) // 4))
    return functional.avg_pool2d(centred, side).flatten(1)
