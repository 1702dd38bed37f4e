"""The map of the upsampled transform, whose normal equations are banded; and of pixels, which it holds as a case."""

from __future__ import annotations

import itertools
import operator

import torch

from fedveil.attacks import _linear_solve
from fedveil.attacks._linear_map import Smooth, Solve, by_colour
from fedveil.frequency import colour

_LEAST_SINGULAR = 1e-6
"""Share of the largest singular value below which a pattern counts as lost: about float32's rounding of it."""


class Banded:
    """C_uv = A_u X A_v^T for some frequencies (u, v), with tridiagonal A (see `frequency.operators`).

    Args:
        down: (U, H, H) float64.
        across: (V, W, W) float64.
        order: the frequencies 8u + v, in the order of the release.
        hides_level: constants are invisible.
    """

    def __init__(self, down: torch.Tensor, across: torch.Tensor, order: tuple[int, ...], hides_level: bool) -> None:
        self.hides_level = hides_level
        self._down, self._across = down, across
        self._order = order
        self._rows: dict[int, list[tuple[int, int]]] = {}
        for place, channel in enumerate(order):
            self._rows.setdefault(channel // 8, []).append((place, channel % 8))
        self._taps = [_taps(matrix) for matrix in (down, across)]

    def observed(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, F, H, W) of (B, 3 * F or more, H, W)."""
        if len(self._down) == 1:
            return colour.to_ycc(released.double())[:, :, None]
        count = len(self._order)
        return by_colour(released[:, : 3 * count])

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, F, H, W)."""
        parts = [self._down[k // 8] @ planes @ self._across[k % 8].T for k in self._order]
        return torch.stack(parts, dim=2)

    def adjoint(self, values: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, 3, H, W); channel by channel of one image, which keeps the sums in the processor's cache."""
        height, width = values.shape[-2:]
        found = torch.empty(*values.shape[:2], height, width, dtype=torch.float64)
        if weights is not None:
            weights = weights.expand(3, len(self._order), *weights.shape[-2:])
        for image, out in zip(values, found, strict=True):
            padded = found.new_zeros(3, height + 2, width + 2)
            for u, columns in self._rows.items():
                row = found.new_zeros(3, height, width + 2)
                for place, v in columns:
                    channel = image[:, place].double()
                    channel = channel if weights is None else channel * weights[:, place]
                    for shift in range(3):
                        row[..., shift : shift + width].addcmul_(channel, self._taps[1][v, shift])
                for shift in range(3):
                    padded[:, shift : shift + height].addcmul_(row, self._taps[0][u, shift][:, None])
            out.copy_(padded[:, 1:-1, 1:-1])
        return found

    def times(self, planes: torch.Tensor, prior: Smooth) -> torch.Tensor:
        """Return the prior's precision times planes."""
        height, width = planes.shape[-2:]
        return prior.rough * (_differences(height) @ planes + planes @ _differences(width)) + prior.small * planes

    def solver(self, weights: torch.Tensor, prior: Smooth) -> Solve:
        """Return the inverse of the normal matrix with this prior."""
        factored = _linear_solve.Factored(*self.blocks(weights, prior))

        def solve(planes: torch.Tensor) -> torch.Tensor:
            return factored.solve(planes.flatten(1).T).T.reshape(planes.shape)

        return solve

    def blocks(self, weights: torch.Tensor, prior: Smooth) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the normal matrix's blocks of two rows of pixels, on and under the diagonal.

        Args:
            weights: (1 or F, 1 or H, 1 or W) of each released value.
            prior: added to it.
        """
        height, width = self._down.shape[1], self._across.shape[1]
        eyes = torch.eye(height, dtype=torch.float64), torch.eye(width, dtype=torch.float64)
        steps = _differences(height), _differences(width)
        grams = {u: self._gram(weights, columns) for u, columns in self._rows.items()}

        def coupled(first: slice, second: slice) -> torch.Tensor:
            rows = eyes[0][first, second]
            total = torch.kron(rows, prior.rough * steps[1] + prior.small * eyes[1])
            total += prior.rough * torch.kron(steps[0][first, second], eyes[1])
            for u, gram in grams.items():
                left, right = self._down[u][:, first], self._down[u][:, second]
                if len(gram) == 1:
                    total += torch.kron(left.T @ right, gram[0])
                    continue
                seen = ((left != 0).any(1) & (right != 0).any(1)).nonzero()[:, 0]
                pairs = left[seen][:, :, None] * right[seen][:, None]
                joined = pairs.flatten(1).T @ gram[seen].flatten(1)
                total += joined.view(*pairs.shape[1:], width, width).transpose(1, 2).reshape(total.shape)
            return total

        slices = [slice(start, min(start + 2, height)) for start in range(0, height, 2)]
        diagonal = [coupled(pair, pair) for pair in slices]
        return diagonal, [coupled(after, before) for before, after in itertools.pairwise(slices)]

    def _gram(self, weights: torch.Tensor, columns: list[tuple[int, int]]) -> torch.Tensor:
        """Return (1 or H, W, W), the sum over v of A_v^T diag(weights) A_v, for each row of weights."""
        places, which = [place for place, _ in columns], [v for _, v in columns]
        stacked = self._across[which]
        width = stacked.shape[1]
        every = weights.expand(len(self._order), -1, -1)
        chosen = every[places].double().expand(-1, -1, width).transpose(0, 1).flatten(1)
        flat = stacked.flatten(0, 1)
        return (flat.T * chosen[:, None]) @ flat

    def gain(self, weights: torch.Tensor) -> float:
        """Return the sum over channels of the products of both axes' largest eigenvalues and the largest weight."""
        down, across = (torch.linalg.matrix_norm(matrices, 2).square() for matrices in (self._down, self._across))
        rows, columns = ([part(k, 8) for k in self._order] for part in (operator.floordiv, operator.mod))
        return float((weights.amax((1, 2)).expand(len(self._order)) * down[rows] * across[columns]).sum())

    def spectrum(self) -> tuple[int, float]:
        """Return (rank, condition), to 5 %: eigenvalues are counted, and none is computed."""
        height, width = self._down.shape[1], self._across.shape[1]
        diagonal, lower = self.blocks(torch.ones(len(self._order), 1, 1), Smooth(0.0, 0.0))
        bound = _linear_solve.bound(diagonal, lower)

        def edge(low: float, high: float, count: int) -> float:
            """Return where more than `count` eigenvalues lie below."""
            while high / low > 1.1:
                middle = (low * high) ** 0.5
                more = _linear_solve.below(diagonal, lower, middle) > count
                low, high = (low, middle) if more else (middle, high)
            return float((low * high) ** 0.5)

        largest = edge(bound / 1e3, bound * 1.05, height * width - 1)
        lost = _linear_solve.below(diagonal, lower, largest * _LEAST_SINGULAR**2)
        smallest = edge(largest * _LEAST_SINGULAR**2, largest * 1.1, lost)
        return height * width - lost, max(1.0, (largest / smallest) ** 0.5)


def _taps(matrices: torch.Tensor) -> torch.Tensor:
    """Return (U, 3, L), the weights of pixels i-1, i, i+1 of tridiagonal matrices."""
    length = matrices.shape[1]
    found = matrices.new_zeros(len(matrices), 3, length)
    for shift in range(3):
        band = torch.diagonal(matrices, offset=shift - 1, dim1=1, dim2=2)
        start = max(0, 1 - shift)
        found[:, shift, start : start + band.shape[1]] = band
    return found


def _differences(length: int) -> torch.Tensor:
    """Return D^T D of the differences D of neighbours, (L, L) float64."""
    steps = torch.eye(length, dtype=torch.float64)[1:] - torch.eye(length, dtype=torch.float64)[:-1]
    return steps.T @ steps
