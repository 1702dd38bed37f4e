"""IResNet-100 with GroupNorm, the backbone of the highest published accuracies."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fedveil.models.backbones import _iresnet


@dataclasses.dataclass(frozen=True)
class IResNet100(_iresnet.Model):
    """IResNet-100 with GroupNorm: 49 IR units, 65 M parameters at 112 px; for a GPU.

    The network of ArcFace (https://arxiv.org/abs/1801.07698), with the departures that `_iresnet.IResNet` names.

    Attributes:
        embedding: length of the embedding.
        norm: "group", or "affine": a scale and a shift, for public checkpoints with BatchNorm (train.warm_start=FILE).

    >>> import torch
    >>> network = IResNet100(embedding=32).build(1, (16, 16), torch.Generator().manual_seed(1))
    >>> network(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 32])
    """

    stages: ClassVar[_iresnet.Stages] = ((64, 3), (128, 13), (256, 30), (512, 3))


METHOD = IResNet100
