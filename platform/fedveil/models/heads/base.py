"""Heads: cosines to class centres, a margin on the right class, softmax cross entropy.

The margin lives in the loss, not in a layer, so a backbone has one input and the centres are a plain tensor that stays
with its owner: a class centre is a template of a person.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as functional

_SMALLEST_NORM = 1e-8


class Head(Protocol):
    """Margin logits over cosines; frozen dataclasses with the settings below."""

    @property
    def scale(self) -> float:
        """Factor before the softmax (inverse temperature)."""

    @property
    def margin(self) -> float:
        """Handicap of the right class."""

    def logits(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return (B, K) logits from (B, K) cosines: scaled, and with the margin at column `labels[b]` of row b."""


def normalised(vectors: torch.Tensor) -> torch.Tensor:
    """Return the rows of (N, D) at unit length; a row shorter than 1e-8 stays as it is.

    Unlike division by max(norm, tiny), the gradient at the zero vector is finite (the identity).

    >>> normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(norms > _SMALLEST_NORM, norms, 1.0)


def cosine(embeddings: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Return the (B, K) cosines between rows of (B, D) and (K, D); 0 where either row is zero.

    Rounding may leave [-1, 1] by a few units in the last place; heads take care of it.
    """
    return normalised(embeddings) @ normalised(centres).T


def loss(head: Head, embeddings: torch.Tensor, centres: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean softmax cross entropy of the head's logits, a scalar."""
    return functional.cross_entropy(head.logits(cosine(embeddings, centres), labels), labels)
