"""What sampling and judging need of a generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch


class Generator(Protocol):
    """A conditional diffusion model with the frozen networks that its conditions come from; an `nn.Module`."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its pictures."""
        ...

    @property
    def alphas(self) -> torch.Tensor:
        """(T,) the share of the picture's variance left at t = 0..T-1, falling, inside (0, 1)."""
        ...

    @property
    def dimension(self) -> int:
        """D, of an embedding."""
        ...

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The A attributes, in their order."""
        ...

    @property
    def identity_mean(self) -> torch.Tensor:
        """(D,): a plausible embedding is the direction of `identity_mean + identity_factor @ n`, n ~ N(0, I)."""
        ...

    @property
    def identity_factor(self) -> torch.Tensor:
        """(D, R), from public embeddings."""
        ...

    @property
    def attribute_mean(self) -> torch.Tensor:
        """(A,): plausible attributes are `attribute_mean + attribute_factor @ n`, n ~ N(0, I)."""
        ...

    @property
    def attribute_factor(self) -> torch.Tensor:
        """(A, A), from public faces."""
        ...

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (B, D) embeddings of length one of pixels (B, 3, H, W) in -1..1; differentiable in the pixels."""
        ...

    def describe(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (B, A) standardised attributes of pixels (B, 3, H, W) in -1..1."""
        ...

    def noise(
        self, x_t: torch.Tensor, t: torch.Tensor, identity: torch.Tensor, attributes: torch.Tensor
    ) -> torch.Tensor:
        """Return the noise (B, 3, H, W) that it sees in noisy pictures, at times (B,) int64, given both conditions."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Return its tensors by name."""
        ...

    def eval(self) -> Any:
        """Switch what is random in training off."""
        ...

    def to(self, device: torch.device, /) -> Any:
        """Move it to a device, where it stays."""
        ...
