"""The maps from pictures to what leaves, as an attacker sees them: forward, adjoint, and their normal equations.

Pictures are centred planes Y, Cb, Cr, (B, 3, H, W) float64. The prior of what a map hides is a smooth picture: its
precision is `rough` times the sum of squared differences of neighbours plus `small` times the sum of squares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch

from fedveil.frequency import operators

Solve = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Smooth:
    """Precision of a plane that is smooth: of differences of neighbouring pixels, and of pixels, per grey level^2."""

    rough: float
    small: float


def by_colour(released: torch.Tensor) -> torch.Tensor:
    """Return (B, 3, F, h, w) of colour-major (B, 3 * F, h, w)."""
    batch, channels, *places = released.shape
    return released.reshape(batch, 3, channels // 3, *places)


class Map(Protocol):
    """A linear map of each plane by itself, the same for all three."""

    hides_level: bool
    """Whether adding a constant to a plane changes nothing that leaves."""

    def observed(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, F, h, w), what left of each plane; a view, where that is possible."""
        ...

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, F, h, w), what leaves of planes (B, 3, H, W)."""
        ...

    def adjoint(self, values: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, 3, H, W) float64, the transposed map of (B, 3, F, h, w), times weights that broadcast to it."""
        ...

    def times(self, planes: torch.Tensor, prior: Smooth) -> torch.Tensor:
        """Return the prior's precision times planes (..., H, W)."""
        ...

    def solver(self, weights: torch.Tensor, prior: Smooth) -> Solve:
        """Return the inverse of (map' weights map + prior), of one plane's weights (F, h, w), on planes (N, H, W)."""
        ...

    def gain(self, weights: torch.Tensor) -> float:
        """Return a number that no eigenvalue of map' weights map exceeds, and that is of their size."""
        ...

    def spectrum(self) -> tuple[int, float]:
        """Return (rank of one plane's map, largest singular value over the smallest one of that rank)."""
        ...


class Block:
    """The critically sampled block DCT: orthonormal, so that everything is diagonal in its own coefficients."""

    def __init__(self, order: tuple[int, ...], size: tuple[int, int]) -> None:
        self.hides_level = 0 not in order
        self._order, self._size = list(order), size

    def observed(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, F, h, w) of (B, 3 * F, h, w)."""
        return by_colour(released)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, F, h, w)."""
        return _spectrum(planes)[:, :, self._order]

    def adjoint(self, values: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, 3, H, W)."""
        full = torch.zeros(*values.shape[:2], 64, *values.shape[3:], dtype=torch.float64)
        full[:, :, self._order] = values.double() if weights is None else values.double() * weights
        return _planes(full)

    def times(self, planes: torch.Tensor, prior: Smooth) -> torch.Tensor:
        """Return the precision times planes; differences across the edges of blocks do not count."""
        return _planes(_spectrum(planes) * self._precision(prior))

    def solver(self, weights: torch.Tensor, prior: Smooth) -> Solve:
        """Return the inverse, one division per coefficient."""
        rows, columns = (side // 8 for side in self._size)
        precision = self._precision(prior).expand(64, rows, columns).clone()
        precision[self._order] += weights.double()

        def solve(planes: torch.Tensor) -> torch.Tensor:
            return _planes(_spectrum(planes[:, None]) / precision)[:, 0]

        return solve

    def _precision(self, prior: Smooth) -> torch.Tensor:
        waves = 2.0 - 2.0 * torch.cos(torch.pi * torch.arange(8, dtype=torch.float64) / 8)
        return (prior.rough * (waves[:, None] + waves) + prior.small).reshape(64, 1, 1)

    def gain(self, weights: torch.Tensor) -> float:
        """Return the largest weight."""
        return float(weights.max())

    def spectrum(self) -> tuple[int, float]:
        """Return (rank, 1): an orthonormal map loses what it does not send, and nothing else."""
        return len(self._order) * self._size[0] * self._size[1] // 64, 1.0


def _spectrum(planes: torch.Tensor) -> torch.Tensor:
    """Return (..., 64, h, w), the block DCT of planes (..., H, W)."""
    *some, height, width = planes.shape
    blocks = planes.reshape(*some, height // 8, 8, width // 8, 8).transpose(-3, -2)
    basis = operators.dct()
    return (basis @ blocks @ basis.T).flatten(-2).movedim(-1, -3)


def _planes(spectrum: torch.Tensor) -> torch.Tensor:
    """Return (..., H, W), the inverse of `_spectrum`."""
    *some, _, rows, columns = spectrum.shape
    blocks = spectrum.movedim(-3, -1).reshape(*some, rows, columns, 8, 8)
    basis = operators.dct()
    return (basis.T @ blocks @ basis).transpose(-3, -2).reshape(*some, 8 * rows, 8 * columns)
