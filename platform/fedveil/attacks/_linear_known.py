"""Pictures from the releases of a linear protection: its map is public, and so are the orders it draws from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from fedveil.attacks import _linear_map
from fedveil.attacks._linear_banded import Banded
from fedveil.attacks._linear_map import Block, Map
from fedveil.attacks._linear_order import Orders
from fedveil.attacks._linear_prior import LeastSquares, Posterior, Prior
from fedveil.frequency import colour, operators
from fedveil.protections._linear import LinearMap

Sent = Literal["float32", "float16", "8 bit"]
_COMPUTING = 3e-6  # of a channel's mean size: what float32 arithmetic errs by
_LARGEST = 65504.0  # of float16, at which a sender cuts noise that exceeds it
_CHUNK = 16


def sent(released: torch.Tensor, how: Sent) -> torch.Tensor:
    """Return releases (B, C, h, w) as they arrive; 8 bit is symmetric, with one scale per picture and channel."""
    if how == "float16":
        return released.clamp(-_LARGEST, _LARGEST).half().float()
    if how == "8 bit":
        step = released.abs().amax((2, 3), keepdim=True).clamp(min=1e-30) / 127
        return (released / step).round() * step
    return released


def rounding(released: torch.Tensor, how: Sent) -> torch.Tensor:
    """Return (C, 1, 1) variances of each channel's errors of arithmetic and rounding, from releases of one's own."""
    magnitude = released.double().abs()
    if how == "float16":
        steps = magnitude.mean((0, 2, 3)) * 2.0**-10
    elif how == "8 bit":
        steps = magnitude.amax((2, 3)).mean(0) / 127
    else:
        steps = magnitude.mean((0, 2, 3)) * 2.0**-23
    computing = _COMPUTING * magnitude.mean((0, 2, 3)) + 1e-9
    return (steps.square() / 12 + computing.square())[:, None, None]


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """What the attacker knows of a linear protection.

    Attributes:
        known: its map and its orders.
        size: of the pictures.
        prior: of his own people.
        example: releases of his own, (N, C, h, w), under any order; they tell how coarsely each place is rounded.
    """

    known: LinearMap
    size: tuple[int, int]
    prior: Prior
    example: torch.Tensor
    _kept: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def sets(self) -> list[tuple[int, ...]]:
        """The different sets of frequencies, each in ascending order."""
        return sorted({tuple(sorted(order)) for order in self.known.orders})

    @property
    def bent(self) -> bool:
        """Whether the map may be bent for some pictures: clipped before noise that is small beside them."""
        return self.known.noise is not None and self.known.transform == "block"

    def identified(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B,) the number of each release's order, from the release alone."""
        if len(self.known.orders) == 1:
            return torch.zeros(len(released), dtype=torch.int64)
        if "orders" not in self._kept:
            self._kept["orders"] = Orders(self.known.orders, self.size, self.known.align_corners)
        told: Orders = self._kept["orders"]
        return told.identify(released)

    def least_squares(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, H, W) planes without any knowledge of faces; of mean zero where levels are hidden."""
        return self._by_set(released, lambda linear, _: LeastSquares(linear))

    def posterior(self, released: torch.Tensor, how: Sent = "float32") -> torch.Tensor:
        """Return (B, 3, H, W) planes, the best linear estimate for the prior, the noise and the rounding."""
        described = self.known

        def build(linear: Map, frequencies: tuple[int, ...]) -> Posterior:
            noise = rounding(sent(self._examples(frequencies), how), how)
            if described.transform == "pixels":  # the planes are mixed from three colours of one rounding
                return Posterior(linear, self.prior, 1.0 / noise.mean().expand(3, 1, 1, 1))
            noise = noise[: 3 * len(frequencies)]
            noise = noise if described.noise is None else noise + described.noise
            return Posterior(linear, self.prior, 1.0 / _linear_map.by_colour(noise[None])[0])

        return self._by_set(released, build)

    def _examples(self, frequencies: tuple[int, ...]) -> torch.Tensor:
        """Return own releases of a set of frequencies, which stand in ascending order if the method draws orders."""
        if len(self.known.orders) == 1:
            return self.example
        if "examples" not in self._kept:
            self._kept["examples"] = self.identified(self.example)
        found = [self.known.orders[index] for index in self._kept["examples"].tolist()]
        mine = [
            _ascending(row[None], order) for row, order in zip(self.example, found, strict=True)
            if tuple(sorted(order)) == frequencies
        ]  # fmt: skip
        return torch.cat(mine) if mine else self.example

    def _by_set(
        self, released: torch.Tensor, build: Callable[[Map, tuple[int, ...]], Callable[[torch.Tensor], torch.Tensor]]
    ) -> torch.Tensor:
        found = self.identified(released)
        out = torch.empty(len(released), 3, *self.size, dtype=torch.float64)
        for linear, frequencies, mine in self._groups(found):
            estimate = build(linear, frequencies)
            for index in torch.split(mine, _CHUNK):
                rows = [released[i : i + 1] for i in index.tolist()]
                if len(self.known.orders) > 1:
                    drawn = [self.known.orders[i] for i in found[index].tolist()]
                    rows = [_ascending(row, order) for row, order in zip(rows, drawn, strict=True)]
                out[index] = estimate(linear.observed(torch.cat(rows)))
        return out

    def _groups(self, found: torch.Tensor) -> Iterator[tuple[Map, tuple[int, ...], torch.Tensor]]:
        """Yield a map, its frequencies and the releases that it made, for each set that is there."""
        if len(self.known.orders) == 1:
            order = self.known.orders[0]
            yield map_of(self.known, order, self.size), order, torch.arange(len(found))
            return
        for frequencies in self.sets:
            alike = [i for i, order in enumerate(self.known.orders) if tuple(sorted(order)) == frequencies]
            mine = torch.isin(found, torch.tensor(alike)).nonzero()[:, 0]
            if len(mine):
                yield map_of(self.known, frequencies, self.size), frequencies, mine

    def levelled(self, planes: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Return planes with other means (3,) or (B, 3), where the release hides them."""
        if 0 in self.known.orders[0] or self.known.transform == "pixels":
            return planes
        return planes - planes.mean((2, 3), keepdim=True) + level.double().view(-1, 3, 1, 1)


def map_of(known: LinearMap, order: tuple[int, ...], size: tuple[int, int]) -> Map:
    """Return a protection's map under one of its orders."""
    if known.transform == "block":
        return Block(order, size)
    if known.transform == "pixels":
        eyes = [torch.eye(side, dtype=torch.float64)[None] for side in size]
        return Banded(eyes[0], eyes[1], (0,), False)
    sides = [operators.dense(side, known.align_corners) for side in size]
    return Banded(sides[0], sides[1], order, 0 not in order)


def _ascending(released: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return a release (1, 3 * F, H, W) with its frequencies in ascending order."""
    places = torch.tensor(order).argsort()
    return _linear_map.by_colour(released)[:, :, places].flatten(1, 2)


def pictures(planes: torch.Tensor) -> torch.Tensor:
    """Return RGB (B, 3, H, W) of planes, neither rounded nor clamped."""
    return colour.to_rgb(planes)
