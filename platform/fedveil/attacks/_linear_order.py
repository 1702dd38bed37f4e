"""Which of a method's public orders a release has: only the right one makes its channels agree with each other.

Nine channels of 16 neighbouring pixels are 144 numbers that hang on 36 pixels. Under the right order they lie in the
36 dimensions that these can reach; under a wrong one next to nothing of them does. A few windows of the picture decide.
"""

from __future__ import annotations

import torch

from fedveil.frequency import operators

_WINDOW, _ACROSS = 4, 3  # pixels of a window's side, windows per side
_REACHED = 1e-7  # singular values below this part of the largest are not reached


class Orders:
    """Tells orders apart.

    Args:
        orders: frequencies 8u + v in each possible order, (R, F).
        size: height and width.
        align_corners: of the upsampled transform.
    """

    def __init__(self, orders: tuple[tuple[int, ...], ...], size: tuple[int, int], align_corners: bool) -> None:
        self._length = len(orders[0])
        self._windows = [(row, column) for row in _starts(size[0]) for column in _starts(size[1])]
        down, across = (operators.dense(side, align_corners) for side in size)
        self._scales = torch.stack(
            [torch.stack([down[k // 8].square().mean().sqrt() * across[k % 8].square().mean().sqrt() for k in order])
             for order in orders]
        )  # fmt: skip
        self._outside = []  # per window (R, n, n - r): what no picture reaches
        for row, column in self._windows:
            rows, columns = slice(row, row + _WINDOW), slice(column, column + _WINDOW)
            bases = [
                torch.cat([torch.kron(down[k // 8][rows], across[k % 8][columns]) / scale
                           for k, scale in zip(order, scales, strict=True)])
                for order, scales in zip(orders, self._scales, strict=True)
            ]  # fmt: skip
            self._outside.append([_complement(basis[:, (basis != 0).any(0)]) for basis in bases])

    def residuals(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B, R), the share of each order's scaled energy that no picture explains: about 0 and about 1.

        Args:
            released: (B, 3 * F, H, W).
        """
        count = len(released)
        unexplained = torch.zeros(count, len(self._scales), dtype=torch.float64)
        energy = torch.full_like(unexplained, 1e-12)
        for (row, column), outside in zip(self._windows, self._outside, strict=True):
            part = released[:, : 3 * self._length, row : row + _WINDOW, column : column + _WINDOW].double()
            part = part.reshape(3 * count, self._length, *part.shape[2:])
            for index, (scales, free) in enumerate(zip(self._scales, outside, strict=True)):
                scaled = (part / scales[:, None, None]).flatten(1)
                unexplained[:, index] += (scaled @ free).square().sum(1).view(count, 3).sum(1)
                energy[:, index] += scaled.square().sum(1).view(count, 3).sum(1)
        return unexplained / energy

    def identify(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B,) the number of the order that explains each release best."""
        found: torch.Tensor = self.residuals(released).argmin(1)
        return found


def _starts(side: int) -> list[int]:
    """Return where windows start: evenly spread and inside."""
    last = side - _WINDOW
    return sorted({round(last * (step + 0.5) / _ACROSS) for step in range(_ACROSS)})


def _complement(basis: torch.Tensor) -> torch.Tensor:
    """Return (n, n - r) orthonormal directions that the columns do not reach."""
    left, values, _ = torch.linalg.svd(basis, full_matrices=True)
    outside: torch.Tensor = left[:, int((values > _REACHED * values[0]).sum()) :]
    return outside.contiguous()
