"""IResNet-18 with GroupNorm, the small standard backbone of face recognition."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fedveil.models.backbones import _iresnet


@dataclasses.dataclass(frozen=True)
class IResNet18(_iresnet.Model):
    """IResNet-18 with GroupNorm: 64-128-256-512 channels, two IR units each; 24 M parameters at 112 px.

    The network of ArcFace (https://arxiv.org/abs/1801.07698), with the departures that `_iresnet.IResNet` names.

    Attributes:
        embedding: length of the embedding.
        norm: "group", or "affine": a scale and a shift, for public checkpoints with BatchNorm (train.warm_start=FILE).

    >>> import torch
    >>> network = IResNet18(embedding=32).build(1, (16, 16), torch.Generator().manual_seed(1))
    >>> network(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 32])
    """

    stages: ClassVar[_iresnet.Stages] = ((64, 2), (128, 2), (256, 2), (512, 2))


METHOD = IResNet18
