"""The two networks of the published comparison of simulators, with GroupNorm: one ruled by arithmetic, one by size."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn


def _block(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.GroupNorm(8, channels), nn.ReLU()
    )


def _small() -> nn.Module:
    """0.28 million parameters, nearly all time in convolutions."""
    layers = [_block(3, 32), nn.MaxPool2d(2), _block(32, 64), nn.MaxPool2d(2), _block(64, 128), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, _block(128, 160), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10))


def _big() -> nn.Module:
    """5.02 million parameters, nearly all of them in one linear layer."""
    layers = [_block(3, 32, 2), _block(32, 64, 2), _block(64, 64, 2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1024, 4800), nn.ReLU(), nn.Linear(4800, 10))


@dataclasses.dataclass(frozen=True)
class Network:
    """A model in fedveil's sense; its first values come from a seed of its own."""

    kind: str

    def build(self, in_channels: int, size: tuple[int, int], generator: torch.Generator) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return {"small": _small, "big": _big}[self.kind]()
