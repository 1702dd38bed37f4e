"""Embedding many images with a fixed batch size and without a graph."""

from __future__ import annotations

import torch
from torch import nn


def embed(backbone: nn.Module, features: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Return the (N, D) float32 embeddings of (N, C, H, W) features on their device, not normalised; N = 0 is an error.

    The result is an ordinary tensor: it may enter a graph later.
    """
    first = _inferred(backbone, features[:batch])
    out = torch.empty(len(features), first.shape[1], device=first.device)
    out[: len(first)] = first
    for start in range(batch, len(features), batch):
        out[start : start + batch] = _inferred(backbone, features[start : start + batch])
    return out


@torch.inference_mode()
def _inferred(backbone: nn.Module, features: torch.Tensor) -> torch.Tensor:
    embeddings: torch.Tensor = backbone(features)
    return embeddings
