"""What an attacker knows of faces before he sees a release, and the best linear estimate that follows from it.

A picture is the mean face plus some principal components plus a smooth remainder, all learnt from his own people: low
rank plus banded. With Gaussian noise of known variance the posterior mean is one banded solve per picture and a
correction in the components' few dimensions; for Laplace noise of that variance it is the best linear estimate.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil.attacks._linear_map import Map, Smooth
from fedveil.frequency import colour

_CHUNK = 64
_RIDGE = 1e-12  # of the largest eigenvalue: far below what is visible, above what float64 rounds
_SPAN = 1e12  # largest eigenvalue over the least that a prior adds: beyond it rounding would decide
_STIFF = 0.01  # precision of a remainder's pixels, in parts of that of its differences; its level is a component
_LEAST = 1e-6  # variance of a component, in parts of the first


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """What faces look like.

    Attributes:
        mean: (3, H, W) float64, planes of the mean face.
        components: (K, 3, H, W) float64; the last three are constants, one per plane.
        variances: (K,) of the pictures' coordinates in them.
        smooth: of the remainder, for each plane.
    """

    mean: torch.Tensor
    components: torch.Tensor
    variances: torch.Tensor
    smooth: tuple[Smooth, Smooth, Smooth]


def planes_of(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return (N, 3, H, W) float64 centred planes."""
    return colour.to_ycc(torch.from_numpy(np.ascontiguousarray(images)).double())


def learn(images: NDArray[np.uint8], components: int) -> Prior:
    """Return the prior of an attacker's own pictures (N, 3, H, W).

    Components come from four fifths of the pictures, their variances and the remainder's smoothness from the others:
    on the pictures that made them, components look better than they are. Neighbouring pictures may be one person's, so
    the cut is made once, in order.
    """
    cut = max(2, 4 * len(images) // 5)
    first, others = images[:cut], images[cut:] if cut < len(images) else images
    mean = colour.to_ycc(torch.from_numpy(images.mean(axis=0))[None])[0]
    found = _principal(first, mean, min(components, len(first) // 2))
    shape = mean.shape
    square = torch.zeros(len(found), dtype=torch.float64)
    levels, edges = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(others), _CHUNK):
        deviations = (planes_of(others[start : start + _CHUNK]) - mean).flatten(1)
        coordinates = deviations @ found.T
        square += coordinates.square().sum(0)
        rest = (deviations - coordinates @ found).view(-1, *shape)
        levels += rest.mean((2, 3)).square().sum(0)
        edges += rest.diff(dim=2).square().sum((0, 2, 3)) + rest.diff(dim=3).square().sum((0, 2, 3))
    pixels = shape[1] * shape[2]
    rough = (len(others) * pixels / edges.clamp(min=1e-6)).tolist()
    constants = torch.eye(3, dtype=torch.float64)[:, :, None, None].expand(3, *shape)
    variances = torch.cat([square, levels]) / len(others)
    return Prior(
        mean,
        torch.cat([found.view(-1, *shape), constants]),
        variances.clamp(min=_LEAST * float(variances.max())),
        (Smooth(rough[0], _STIFF * rough[0]), Smooth(rough[1], _STIFF * rough[1]), Smooth(rough[2], _STIFF * rough[2])),
    )


def _principal(images: NDArray[np.uint8], mean: torch.Tensor, count: int) -> torch.Tensor:
    """Return (count, D) orthonormal directions of most variance, from the pictures' inner products."""
    deviations = torch.cat(
        [(planes_of(images[i : i + _CHUNK]) - mean).flatten(1).float() for i in range(0, len(images), _CHUNK)]
    )
    values, vectors = torch.linalg.eigh((deviations @ deviations.T).double())
    kept = min(count, int((values > 1e-6 * values[-1]).sum()))
    directions = vectors[:, -kept:].flip(1).T.float() @ deviations
    orthonormal: torch.Tensor = torch.linalg.qr(directions.double().T)[0]
    return orthonormal.T.contiguous()


class Posterior:
    """The posterior mean of planes, given what left of them.

    With B = A'WA + Q for the map A, the noise's precisions W and the remainder's precision Q, the components U have
    the posterior precision D^-1 + U'QU - U'Q B^-1 QU: no large numbers cancel where A sees a pattern well.

    Args:
        linear: the map.
        prior: of the attacker's people.
        weights: (3, F, h, w) or broadcast to it, one over the noise's variance.
    """

    def __init__(self, linear: Map, prior: Prior, weights: torch.Tensor) -> None:
        spans = [linear.gain(weights[c]) / (_SPAN * prior.smooth[c].small) for c in range(3)]
        weights = weights / torch.tensor(spans, dtype=torch.float64).clamp(min=1.0).view(3, 1, 1, 1)
        self._map, self._prior, self._weights = linear, prior, weights
        self._solvers = [linear.solver(weights[c], prior.smooth[c]) for c in range(3)]
        pushed = [linear.times(prior.components[:, c], prior.smooth[c]) for c in range(3)]
        self._pushed = torch.stack(pushed, 1)
        self._solved = self._solve(self._pushed)
        flat, solved = self._pushed.flatten(1), self._solved.flatten(1)
        precision = torch.diag(1.0 / prior.variances) + prior.components.flatten(1) @ flat.T - flat @ solved.T
        self._factor = torch.linalg.cholesky((precision + precision.T) / 2)
        self._expected = linear.adjoint(linear.forward(prior.mean[None]), weights)

    def _solve(self, planes: torch.Tensor) -> torch.Tensor:
        return torch.stack([solve(planes[:, c]) for c, solve in enumerate(self._solvers)], 1)

    def __call__(self, observed: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, H, W) planes of what was observed, (B, 3, F, h, w)."""
        rest = self._solve(self._map.adjoint(observed, self._weights) - self._expected)
        against = rest.flatten(1) @ self._pushed.flatten(1).T
        coordinates = torch.cholesky_solve(against.T, self._factor).T
        return self._prior.mean + rest + (coordinates @ self._solved.flatten(1)).view_as(rest)


class LeastSquares:
    """The planes that explain what left best, without any knowledge of faces; what is not seen stays zero."""

    def __init__(self, linear: Map) -> None:
        self._map = linear
        ones = torch.ones(1, 1, 1, dtype=torch.float64)
        self._solve = linear.solver(ones, Smooth(0.0, _RIDGE * linear.gain(ones)))

    def __call__(self, observed: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, H, W) planes; where levels are hidden, of mean zero."""
        moments = self._map.adjoint(observed)
        found = self._solve(moments.flatten(0, 1)).view_as(moments)
        return found - found.mean((2, 3), keepdim=True) if self._map.hides_level else found
