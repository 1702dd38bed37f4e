"""CosFace: an additive margin on the cosine."""

from __future__ import annotations

import dataclasses

import torch

from fedveil import checks


@dataclasses.dataclass(frozen=True)
class CosFace:
    """CosFace: the right class must win with its cosine made smaller by a margin.

    The right logit is `scale * (cos t - margin)` (https://arxiv.org/abs/1801.09414); its slope is constant, which makes
    it calmer than ArcFace on small or noisy data.

    Attributes:
        scale: factor before the softmax; 64 as published for 512 numbers and millions of images.
        margin: subtracted cosine, in [0, 1]; 0.35 as published.

    >>> CosFace(scale=10.0, margin=0.4).logits(torch.tensor([[1.0, 0.5]]), torch.tensor([0]))
    tensor([[6., 5.]])
    """

    scale: float = 16.0
    margin: float = 0.5

    def __post_init__(self) -> None:
        checks.within(1e-3, 1e4, scale=self.scale)
        checks.within(0, 100, margin=self.margin)
        if self.margin > 1.0:
            raise checks.UserError(f"Expected margin={self.margin!r} <= 1; it is subtracted from a cosine.")

    def logits(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return (B, K) logits from (B, K) cosines and (B,) int64 labels."""
        index = labels[:, None]
        return cosine.scatter(1, index, cosine.gather(1, index) - self.margin) * self.scale


METHOD = CosFace
