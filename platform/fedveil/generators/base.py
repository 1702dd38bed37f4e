"""What a generator is to a run: a network with a loss for each image, which is trained in the recogniser's place."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping

import torch
from torch import nn

TRAINED = "denoiser."
"""What the names of tensors that are learnt begin with; all others are public constants of the generator."""


class Network(nn.Module, abc.ABC):
    """A generator of faces in training: a loss for every image alone, and a recogniser of what it makes.

    It is fed (B, 3, H, W) pixels in [-1, 1]. Nothing in it mixes rows, and it has no buffers. As a function it is a
    recogniser of faces that it has made anew, so that a run evaluates it as it evaluates a recogniser.
    """

    @abc.abstractmethod
    def drawn(self, pixels: torch.Tensor, coins: torch.Generator) -> torch.Tensor:
        """Return rows (B, C', H, W): each image with everything random about one visit of it."""

    @abc.abstractmethod
    def losses(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the losses (B,) of rows that `drawn` made, no row's depending on another row."""


class Losses(nn.Module):
    """A generator as a function from rows to losses (B, 1): the shape in which gradients are clipped by units."""

    def __init__(self, network: Network) -> None:
        """Take a generator, which is not copied."""
        super().__init__()
        self.network = network

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (B, 1) losses."""
        return self.network.losses(rows)[:, None]


def row_losses(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the losses (B,) that `Losses` gave; labels are not read."""
    return outputs[:, 0]


def learnt(names: Iterable[str]) -> list[str]:
    """Return the names of a generator's tensors that are trained.

    >>> learnt(["denoiser.last.weight", "recogniser.stem.weight"])
    ['denoiser.last.weight']
    """
    return [name for name in names if name.startswith(TRAINED)]


def constants(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that are no part of what is trained."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINED)}
