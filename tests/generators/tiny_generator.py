"""A generator that is small enough for tests."""

from __future__ import annotations

import torch

from fedveil.generators._network import Generator
from fedveil.generators.id3 import ID3
from fedveil.models.backbones.tiny_ir import TinyIR

SMALL = {"width": 8, "multipliers": (1, 2), "attention": 0, "context": 16, "times": 50, "kappa": 0.5, "share": 0.2}


def built(seed: int = 1, **settings: object) -> Generator:
    """Return an untrained generator whose last layers are not zero, where half of all mistakes would not show."""
    coins = torch.Generator().manual_seed(seed)
    recogniser = TinyIR(width=8, embedding=16).build(3, (32, 32), coins)
    generator = ID3(**{**SMALL, **settings}).build(recogniser, (32, 32), coins, 16)
    with torch.no_grad():
        for parameter in generator.denoiser.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=coins))
    return generator
