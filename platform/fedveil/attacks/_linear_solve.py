"""Symmetric block-tridiagonal systems: one factorisation for all right-hand sides, and where eigenvalues lie.

A release is a separable map whose rows reach one pixel to each side, so its normal matrix couples a row of pixels with
two rows above and below: two rows together form a block, and blocks couple with their neighbours only. At 112 pixels
these are 56 blocks of 224, and a solve is two products of 224 x 224 for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Blocks = Sequence[torch.Tensor]


class Factored:
    """The Cholesky factor of a positive definite matrix.

    Args:
        diagonal: T blocks (b, b), float64.
        below: T - 1 blocks (b', b) under them.
    """

    def __init__(self, diagonal: Blocks, below: Blocks) -> None:
        self._inverses: list[torch.Tensor] = []
        self._below: list[torch.Tensor] = []
        for index, block in enumerate(diagonal):
            pivot = block if index == 0 else block - self._below[-1] @ self._below[-1].T
            factor = torch.linalg.cholesky(pivot)
            inverse = torch.linalg.solve_triangular(factor, torch.eye(len(pivot)).to(pivot), upper=False)
            self._inverses.append(inverse)
            if index < len(below):
                self._below.append(below[index] @ inverse.T)

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """Return (n, N), the solutions of N right-hand sides (n, N), float64."""
        parts = list(torch.split(right, [len(inverse) for inverse in self._inverses]))
        for index, inverse in enumerate(self._inverses):
            before = parts[index] if index == 0 else parts[index] - self._below[index - 1] @ parts[index - 1]
            parts[index] = inverse @ before
        for index in range(len(parts) - 1, -1, -1):
            after = parts[index]
            if index + 1 < len(parts):
                after = after - self._below[index].T @ parts[index + 1]
            parts[index] = self._inverses[index].T @ after
        return torch.cat(parts)


def below(diagonal: Blocks, lower: Blocks, value: float) -> int:
    """Return how many eigenvalues of the matrix lie below a value, by Sylvester's law of inertia.

    Args:
        diagonal: T blocks (b, b), float64.
        lower: T - 1 blocks under them.
        value: any number that is no eigenvalue.
    """
    count, pivot = 0, torch.empty(0)
    for index, block in enumerate(diagonal):
        shifted = block - value * torch.eye(len(block)).to(block)
        if index > 0:
            shifted = shifted - lower[index - 1] @ torch.linalg.solve(pivot, lower[index - 1].T)
        pivot = (shifted + shifted.T) / 2
        count += int((torch.linalg.eigvalsh(pivot) < 0).sum())
    return count


def bound(diagonal: Blocks, lower: Blocks) -> float:
    """Return a number that no eigenvalue exceeds: the largest sum of absolute values of a row (Gershgorin)."""
    sums = [block.abs().sum(1) for block in diagonal]
    for index, block in enumerate(lower):
        sums[index + 1] = sums[index + 1] + block.abs().sum(1)
        sums[index] = sums[index] + block.abs().sum(0)
    return float(torch.cat(sums).max())
