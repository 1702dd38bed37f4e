"""A backbone and its class centres as one module, so that both are in one clipped vector.

Under private training the class centres are built from every image, so they must be inside the clipped and noised
vector: updated outside it, they would change all later gradients when one image goes, and nothing would bound that.
They stay with the owner all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil import device
from fedveil.models.heads import base


class CosineLayer(nn.Module):
    """Cosines of embeddings (B, D) to class centres: (B, K).

    A single-input layer: the margin, which needs labels, lives in the loss.

    Attributes:
        weight: (K, D), one row per class; only a row's direction matters.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        """Take the first values of the centres, (K, D), which are copied."""
        super().__init__()
        self.weight = nn.Parameter(rows.detach().clone())

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return (B, K) cosines; 0 where either vector is zero."""
        return base.cosine(embeddings, self.weight)


class Classifier(nn.Module):
    """(B, C, H, W) to (B, K) cosines: a backbone, then a `CosineLayer`.

    Its parameters are named `backbone.NAME` and `head.weight`.

    Attributes:
        backbone: from (B, C, H, W) to (B, D).
        head: the class centres.
        precision: of the backbone's forward pass (`fedveil.device.Place`); cosines are float32.
    """

    def __init__(self, backbone: nn.Module, rows: torch.Tensor, precision: device.Precision = "fp32") -> None:
        """Take a backbone, which is not copied, and class centres (K, D), which are."""
        super().__init__()
        self.backbone = backbone
        self.head = CosineLayer(rows)
        self.precision: device.Precision = precision

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the cosines (B, K)."""
        with device.autocast(self.precision, inputs.device):
            embeddings = self.backbone(inputs)
        if self.precision != "fp32":
            embeddings = embeddings.float()
        return cast(torch.Tensor, self.head(embeddings))


def row_losses(head: base.Head) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss of a margin head, row by row: cosines (B, K) and labels (B,) to (B,)."""

    def loss(cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head.logits(cosine, labels), labels, reduction="none")

    return loss
