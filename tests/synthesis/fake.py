"""A generator that is exact: pictures are Gaussian around a linear function of identity and attributes."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

SD = 0.05
"""Of a pixel around the mean picture."""
REACH = 3.0
"""Length of the identity's part of a mean picture."""


class Fake(nn.Module):
    """x given (y, a) ~ N(REACH * P^T y + Q^T a / 2, SD^2 I) with orthonormal rows of P and Q, phi(x) ~ P x.

    So its noise predictor is the exact one of that distribution, and DDIM has a closed form.
    """

    def __init__(self, dimension: int = 8, times: int = 100, blind: bool = False) -> None:
        super().__init__()
        size = (8, 8)
        self.size, self.dimension, self.attribute_names, self.blind = size, dimension, ("yaw", "light"), blind
        rows = dimension + 2
        base = torch.linalg.qr(torch.randn(3 * size[0] * size[1], rows, generator=torch.Generator().manual_seed(5)))[0]
        betas = torch.linspace(1e-3, 0.12, times, dtype=torch.float64)
        self.register_buffer("alphas", torch.cumprod(1 - betas, 0).float())
        self.register_buffer("p", base.T[:dimension].contiguous())
        self.register_buffer("q", base.T[dimension:].contiguous())
        self.register_buffer("identity_mean", torch.zeros(dimension))
        self.register_buffer("identity_factor", torch.eye(dimension))
        self.register_buffer("attribute_mean", torch.zeros(2))
        self.register_buffer("attribute_factor", torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
        self.calls = 0

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(pixels.flatten(1) @ self.p.T)

    def describe(self, pixels: torch.Tensor) -> torch.Tensor:
        return 2 * pixels.flatten(1) @ self.q.T

    def mean(self, identity: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        if self.blind:  # to who is asked for: everybody is possible
            identity = torch.zeros_like(identity)
        return (REACH * identity @ self.p + attributes @ self.q / 2).view(-1, 3, *self.size)

    def noise(
        self, x_t: torch.Tensor, t: torch.Tensor, identity: torch.Tensor, attributes: torch.Tensor
    ) -> torch.Tensor:
        self.calls += len(x_t)
        share = self.alphas[t].view(-1, 1, 1, 1)
        left = x_t - share.sqrt() * self.mean(identity, attributes)
        return (1 - share).sqrt() * left / (share * SD**2 + 1 - share)


def closed_form(fake: Fake, start: torch.Tensor, mean: torch.Tensor, times: list[int]) -> torch.Tensor:
    """Return what DDIM without fresh noise makes of a start: every step scales the distance to the mean picture."""
    shares: Any = [float(fake.alphas[t].double()) for t in times] + [1.0]
    factor, first = 1.0, shares[0]
    for now, after in itertools.pairwise(shares):
        spread = now * SD**2 + 1 - now
        factor *= ((after * now) ** 0.5 * SD**2 + ((1 - after) * (1 - now)) ** 0.5) / spread
    return mean + factor * (start - first**0.5 * mean)
