"""From noise to pictures: DDIM, its score adjusted so that the picture keeps the identity that was asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from fedveil import checks
from fedveil.device import HOST, Place, autocast
from fedveil.synthesis.base import Generator

CHEAP_UNTIL = 0.6
"""Share of the times, from the last one, at which cheap guidance is applied: earlier estimates show no face."""


@dataclasses.dataclass(frozen=True)
class Ddim:
    """How noise becomes a picture.

    Attributes:
        steps: network calls for one picture.
        eta: 0: a picture is a function of its starting noise; 1: as much fresh noise a step as in DDPM
            (https://arxiv.org/abs/2010.02502).
        guidance: weight of the identity's score, 0 for none.
        cheap: leave the noise predictor out of the guidance's chain rule, and the noisiest times out altogether.
    """

    steps: int = 25
    eta: float = 1.0
    guidance: float = 1.0
    cheap: bool = True

    def __post_init__(self) -> None:
        checks.positive(ddim_steps=self.steps)
        checks.within(0, 1, eta=self.eta)
        checks.within(0, 1e4, guidance=self.guidance)


def times(total: int, steps: int) -> list[int]:
    """Return the times of the steps, from total - 1 down, evenly apart ("trailing", https://arxiv.org/abs/2305.08891).

    >>> times(1000, 4)
    [999, 749, 499, 249]

    Raises:
        fedveil.checks.UserError: more steps than times.
    """
    checks.within(1, total, ddim_steps=steps)
    return [round(total - number * total / steps) - 1 for number in range(steps)]


@torch.no_grad()
def sample(
    generator: Generator, ddim: Ddim, start: torch.Tensor, identity: torch.Tensor, attributes: torch.Tensor,
    fresh: Callable[[], torch.Tensor] | None = None, place: Place = HOST,
) -> torch.Tensor:  # fmt: skip
    """Return pictures (B, 3, H, W) in -1..1, on the host.

    At each step the estimate of the picture is cut to -1..1, and the noise stays as it was predicted: to compute it
    anew from the cut estimate spreads the colours of a little-trained generator over twice their range. (To leave it
    and add no fresh noise, eta = 0, washes them out.) What guidance adds to the estimate is cut, too, and only as much
    of it leaves the noise: else a strong correction would pull the wrong way.

    Args:
        generator: on the place, in evaluation mode.
        ddim: the settings.
        start: (B, 3, H, W) normal noise.
        identity: (B, D) of length one, the embeddings to show.
        attributes: (B, A).
        fresh: returns new noise (B, 3, H, W) for a step; needed where eta is above 0.
        place: where the generator is, and in which precision its noise predictor runs.
    """
    if ddim.eta > 0 and fresh is None:
        raise ValueError("eta > 0 needs fresh noise for the steps.")
    shares = generator.alphas.double().tolist()
    wanted = times(len(shares), ddim.steps)
    x, identity, attributes = (part.to(place.device) for part in (start, identity, attributes))
    for t, after in zip(wanted, [*wanted[1:], -1], strict=True):
        share, next_share = shares[t], shares[after] if after >= 0 else 1.0
        noise, correction = _noise(generator, ddim, x, t, share, identity, attributes, place)
        spread = math.sqrt(1 - share) / math.sqrt(share)
        picture = (x / math.sqrt(share) - spread * noise).clamp(-1, 1)
        if correction is not None:
            guided = (picture + spread * correction).clamp(-1, 1)
            noise, picture = noise - (guided - picture) / spread, guided
        sigma = ddim.eta * math.sqrt((1 - next_share) / (1 - share) * (1 - share / next_share))
        x = math.sqrt(next_share) * picture + math.sqrt(max(0.0, 1 - next_share - sigma**2)) * noise
        if sigma > 0 and fresh is not None:
            x = x + sigma * fresh().to(place.device)
    return x.clamp(-1, 1).cpu()


def _noise(
    generator: Generator, ddim: Ddim, x: torch.Tensor, t: int, share: float, identity: torch.Tensor,
    attributes: torch.Tensor, place: Place,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Return the predicted noise, and what it loses to the identity's gradient, never longer than the noise itself.

    The adjusted score adds guidance * grad_x <y, phi(estimate)> to -noise / sqrt(1 - share), so the noise loses
    guidance * sqrt(1 - share) times the gradient.
    """
    when = torch.full((len(x),), t, dtype=torch.int64, device=x.device)

    def predicted(pictures: torch.Tensor) -> torch.Tensor:
        with autocast(place.precision, place.device):
            return generator.noise(pictures, when, identity, attributes).float()

    if ddim.guidance == 0 or (ddim.cheap and t >= CHEAP_UNTIL * len(generator.alphas)):
        return predicted(x), None
    noise, gradient = identity_gradient(generator, predicted, x, share, identity, ddim.cheap)
    correction = ddim.guidance * math.sqrt(1 - share) * gradient
    longest, length = (part.flatten(1).norm(dim=1) for part in (noise, correction))
    return noise, correction * (longest / length.clamp_min(1e-12)).clamp_max(1.0).view(-1, 1, 1, 1)


def identity_gradient(
    generator: Generator, predicted: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, share: float,
    identity: torch.Tensor, cheap: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the predicted noise, and the gradient of <y, phi(estimate of the picture)> in the noisy picture.

    Args:
        generator: whose `embed` is phi.
        predicted: from noisy pictures to their noise.
        x: (B, 3, H, W) noisy pictures.
        share: of the picture's variance at this time.
        identity: (B, D), y.
        cheap: take the noise for a constant: the gradient in the estimate, over sqrt(share).
    """
    if cheap:
        noise = predicted(x)
        leaf = ((x - math.sqrt(1 - share) * noise) / math.sqrt(share)).requires_grad_(True)
        with torch.enable_grad():
            score = (identity * generator.embed(leaf.clamp(-1, 1))).sum()
        return noise, torch.autograd.grad(score, leaf)[0] / math.sqrt(share)
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        noise = predicted(leaf)
        estimate = (leaf - math.sqrt(1 - share) * noise) / math.sqrt(share)
        score = (identity * generator.embed(estimate.clamp(-1, 1))).sum()
    return noise.detach(), torch.autograd.grad(score, leaf)[0]
