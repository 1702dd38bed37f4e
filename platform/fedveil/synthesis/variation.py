"""How the pictures of one synthetic person differ: an angle around the anchor, attributes, and the starting noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from fedveil import checks, randomness

FARTHEST_ATTRIBUTE = 2.5
"""Standard deviations from the mean at which drawn attributes are cut off."""


@dataclasses.dataclass(frozen=True, eq=False)
class Coins:
    """Public randomness of B pictures, each from a stream of its own, so that no picture depends on its neighbours.

    Attributes:
        uniform: (B,) in [0, 1).
        direction: (B, D) normal.
        attributes: (B, A) normal.
        start: (B, 3, H, W) normal, the noise that a picture begins as.
        streams: for the noise of later steps.
    """

    uniform: torch.Tensor
    direction: torch.Tensor
    attributes: torch.Tensor
    start: torch.Tensor
    streams: Sequence[torch.Generator]

    def fresh(self) -> torch.Tensor:
        """Return new noise (B, 3, H, W) for one step."""
        return torch.stack([torch.randn(self.start.shape[1:], generator=stream) for stream in self.streams])


def coins(
    seed: int, pictures: Sequence[tuple[int, int, int]], dimension: int, attributes: int, size: tuple[int, int]
) -> Coins:
    """Return the randomness of pictures, each a (number of the person, number of the picture, attempt)."""
    streams = [randomness.public_torch(seed, "synthetic", *picture) for picture in pictures]
    parts: list[list[torch.Tensor]] = [[], [], [], []]
    for stream in streams:
        parts[0].append(torch.rand((), generator=stream))
        for part, shape in zip(parts[1:], ((dimension,), (attributes,), (3, *size)), strict=True):
            part.append(torch.randn(shape, generator=stream))
    uniform, direction, normal, start = map(torch.stack, parts)
    return Coins(uniform, direction, normal, start, streams)


def variants(
    anchors: torch.Tensor, low: float, high: float, uniform: torch.Tensor, direction: torch.Tensor
) -> torch.Tensor:
    """Return embeddings around anchors: y = c w + sqrt(1 - c^2) u, c uniform in [low, high], u orthogonal to w.

    Args:
        anchors: (B, D) of length one.
        low: smallest cosine to the anchor.
        high: largest.
        uniform: (B,) in [0, 1].
        direction: (B, D) normal; its part along the anchor is removed.

    Returns:
        (B, D) of length one.

    >>> variants(torch.tensor([[1.0, 0.0]]), 0.6, 0.6, torch.zeros(1), torch.tensor([[5.0, 2.0]]))
    tensor([[0.6000, 0.8000]])
    """
    cosine = (low + (high - low) * uniform)[:, None]
    across = direction - anchors * (anchors * direction).sum(1, keepdim=True)
    across = across / across.norm(dim=1, keepdim=True).clamp_min(1e-12)
    found: torch.Tensor = cosine * anchors + (1 - cosine**2).sqrt() * across
    return found


def drawn_attributes(
    mean: torch.Tensor, factor: torch.Tensor, normal: torch.Tensor, fixed: Mapping[int, float]
) -> torch.Tensor:
    """Return attributes mean + factor @ n, each within 2.5 of its standard deviations of its mean.

    Args:
        mean: (A,).
        factor: (A, A).
        normal: (B, A).
        fixed: number of an attribute -> the value that it has in all pictures. The others are drawn as if it were not
            fixed: they do not follow it.

    Returns:
        (B, A).
    """
    reach = FARTHEST_ATTRIBUTE * factor.norm(dim=1)
    found = torch.clamp(mean + normal @ factor.T, mean - reach, mean + reach)
    for number, value in fixed.items():
        found[:, number] = value
    return found


def numbered(attributes: Mapping[str, float], names: Sequence[str]) -> dict[int, float]:
    """Return fixed attributes by their number.

    Raises:
        fedveil.checks.UserError: an unknown name, with the nearest, or a value beyond what is ever drawn.

    >>> numbered({"yaw": 0.5}, ("pitch", "yaw"))
    {1: 0.5}
    """
    for name, value in attributes.items():
        if name not in names:
            known = f" It has {', '.join(names)}." if names else " It has none."
            raise checks.UserError(f"Unknown attribute {name!r} of this generator.{known}{checks.nearest(name, names)}")
        checks.within(-FARTHEST_ATTRIBUTE, FARTHEST_ATTRIBUTE, **{f"attributes.{name}": value})
    return {names.index(name): float(value) for name, value in attributes.items()}
