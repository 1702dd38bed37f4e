"""IResNet-50 with GroupNorm, the backbone that the published tables are measured with."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _iresnet

_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))


@dataclasses.dataclass(frozen=True)
class IResNet50:
    """IResNet-50 with GroupNorm: 24 IR units, 44 M parameters at 112 px; for a GPU.

    The network of ArcFace (https://arxiv.org/abs/1801.07698), with the departures that `_iresnet.IResNet` names.

    Attributes:
        embedding: length of the embedding.

    >>> network = IResNet50(embedding=32).build(1, (16, 16), torch.Generator().manual_seed(1))
    >>> network(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 32])
    """

    embedding: int = 512

    def __post_init__(self) -> None:
        checks.positive(embedding=self.embedding)

    def build(self, in_channels: int, size: tuple[int, int], generator: torch.Generator) -> nn.Module:
        """Return a network from (B, in_channels, H, W) float32 to (B, embedding), not normalised.

        Raises:
            UserError: if a side of `size` is not a multiple of 8 or is below 16.
        """
        return _iresnet.build(_STAGES, self.embedding, in_channels, size, generator)


METHOD = IResNet50
