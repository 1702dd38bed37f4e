"""What a generator is told of a picture beside who is shown: pose, light and sharpness, found from its pixels.

Light, contrast and sharpness are closed forms. Pose is a ridge regression that is learnt on drawn faces, whose pose is
known, so on photographs it is a rough guess; age is not among them, because no source here knows it.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from fedveil.data import people
from fedveil.data.sources.procedural import draw_faces

POSE = ("yaw", "pitch")
NAMES = (*POSE, "light", "contrast", "light_x", "light_y", "sharpness")
"""Yaw and pitch, sines; mean and standard deviation of the luminance, and how it changes from left to right and from
top to bottom, in units of half the range; the logarithm of the mean square of its Laplacian."""
_SIDE = 12  # pixels of the picture that the pose is read from
_PEOPLE, _PICTURES, _RIDGE = 300, 4, 30.0
_LUMINANCE = (0.299, 0.587, 0.114)
_FIELD = 3.0  # standard deviations from the mean at which an attribute is cut
_TINY = 1e-6


class Attributes(nn.Module):
    """Pixels (B, 3, H, W) in [-1, 1] to attributes (B, len(NAMES)), zero mean and unit scale on public faces.

    All its values are public constants, and none is trained.

    Attributes:
        pose: (2, 144) and `bias` (2,): the regression.
        mean: (A,) of the public faces' attributes; `scale` (A,) their standard deviations.
        factor: (A, A) with factor factor^T the correlations of the public faces' attributes.
    """

    def __init__(self) -> None:
        super().__init__()
        count = len(NAMES)
        self.pose = _constant(len(POSE), _SIDE**2)
        self.bias = _constant(len(POSE))
        self.mean = _constant(count)
        self.scale = nn.Parameter(torch.ones(count), requires_grad=False)
        self.factor = nn.Parameter(torch.eye(count), requires_grad=False)

    def measured(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return attributes in their own units."""
        grey = torch.einsum("bchw,c->bhw", pixels, pixels.new_tensor(_LUMINANCE))
        flat = grey.flatten(1)
        turned = _small(grey) @ self.pose.T + self.bias
        across = torch.linspace(-1, 1, grey.shape[2], device=grey.device)
        down = torch.linspace(-1, 1, grey.shape[1], device=grey.device)
        beside = grey[:, 2:, 1:-1] + grey[:, :-2, 1:-1] + grey[:, 1:-1, 2:] + grey[:, 1:-1, :-2]
        edges = 4 * grey[:, 1:-1, 1:-1] - beside
        closed = [
            flat.mean(1),
            flat.std(1, correction=0),
            (grey * across).mean((1, 2)) / across.square().mean(),
            (grey * down[:, None]).mean((1, 2)) / down.square().mean(),
            edges.square().mean((1, 2)).add(_TINY).log(),
        ]
        return torch.cat([turned, torch.stack(closed, 1)], 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return standardised attributes, cut at three standard deviations."""
        return ((self.measured(pixels) - self.mean) / self.scale).clamp(-_FIELD, _FIELD)

    @torch.no_grad()
    def fit(self, pixels: torch.Tensor) -> None:
        """Learn pose from drawn faces, and what is usual from public pictures (N, 3, H, W) in [-1, 1]."""
        weights, bias = _pose()
        self.pose.copy_(weights)
        self.bias.copy_(bias)
        found = torch.cat([self.measured(part) for part in torch.split(pixels, 256)]).double()
        mean, scale = found.mean(0), found.std(0).clamp(min=_TINY)
        within = ((found - mean) / scale).clamp(-_FIELD, _FIELD)
        values, vectors = torch.linalg.eigh(within.T @ within / len(within))
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.factor.copy_(vectors * values.clamp(min=0).sqrt())


@functools.cache
def _pose() -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights (2, 144) and bias (2,) of the ridge regression, the same on every machine up to rounding."""
    who = np.repeat(np.arange(_PEOPLE), _PICTURES)
    which = np.tile(np.arange(_PICTURES), _PEOPLE)
    known = people.parameters(1, who, which, 1.0)
    wanted = torch.from_numpy(np.stack([known[f"sin_{turn}"] for turn in POSE], 1)).double()
    images = draw_faces(1, 0, _PEOPLE, _PICTURES, 32).images()
    pixels = torch.from_numpy(images).float().sub(127.5).div(127.5)
    rows = _small(torch.einsum("bchw,c->bhw", pixels, pixels.new_tensor(_LUMINANCE))).double()
    centre = rows.mean(0)
    rows = rows - centre
    square = rows.T @ rows + _RIDGE * torch.eye(rows.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(square, rows.T @ (wanted - wanted.mean(0))).T
    return weights.float(), (wanted.mean(0) - weights @ centre).float()


def _small(grey: torch.Tensor) -> torch.Tensor:
    """Return (B, 144): the luminance at 12 x 12 pixels, each picture of zero mean and unit length of its pixels."""
    small = functional.interpolate(grey[:, None], (_SIDE, _SIDE), mode="area").flatten(1)
    small = small - small.mean(1, keepdim=True)
    return small / small.std(1, keepdim=True, correction=0).clamp(min=_TINY)


def _constant(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape), requires_grad=False)
