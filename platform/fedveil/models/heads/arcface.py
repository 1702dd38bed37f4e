"""ArcFace: an additive margin on the angle."""

from __future__ import annotations

import dataclasses
import math

import torch

from fedveil import checks

_CLAMP = 1e-7  # sqrt(1 - c^2) has infinite slope at c = +-1


@dataclasses.dataclass(frozen=True)
class ArcFace:
    """ArcFace: the right class must win with its angle made larger by a margin.

    With t the angle to the right centre its logit is `scale * cos(t + margin)` while t + margin <= pi, and beyond that
    the straight line `scale * (cos t - margin * sin(pi - margin))`, which keeps it falling in t
    (https://arxiv.org/abs/1801.07698). Finite gradients at every cosine, +-1 included.

    Attributes:
        scale: factor before the softmax; 64 as published for 512 numbers and millions of images.
        margin: added angle in radians, in [0, pi); 0.5 as published, which small networks do not learn from scratch.

    >>> head = ArcFace(scale=1.0, margin=0.5)
    >>> head.logits(torch.tensor([[0.0, 0.5]]), torch.tensor([0]))  # cos(pi / 2 + 0.5), then 0.5 untouched
    tensor([[-0.4794,  0.5000]])
    """

    scale: float = 32.0
    margin: float = 0.3

    def __post_init__(self) -> None:
        checks.within(1e-3, 1e4, scale=self.scale)
        checks.within(0, 100, margin=self.margin)
        if self.margin >= math.pi:
            raise checks.UserError(f"Expected margin={self.margin!r} < pi; it is an angle in radians.")

    def logits(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return (B, K) logits from (B, K) cosines and (B,) int64 labels."""
        index = labels[:, None]
        right = cosine.gather(1, index)
        sine = torch.sqrt(1.0 - right.clamp(-1.0 + _CLAMP, 1.0 - _CLAMP).square())
        turned = right * math.cos(self.margin) - sine * math.sin(self.margin)
        line = right - self.margin * math.sin(math.pi - self.margin)
        with_margin = torch.where(right > math.cos(math.pi - self.margin), turned, line)
        return cosine.scatter(1, index, with_margin) * self.scale


METHOD = ArcFace
