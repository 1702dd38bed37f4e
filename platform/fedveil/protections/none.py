"""No protection: the representation is the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedveil.privacy.events import NonPrivate
from fedveil.protections import base
from fedveil.protections._linear import LinearMap
from fedveil.randomness import SecretStream


@dataclass(frozen=True)
class NoProtection(base.Protection):
    """No protection: the image itself, the baseline that every other method is compared with.

    The representation is the pixels as float32 in 0..255 and the recogniser is fed (pixels - 127.5) / 127.5. There is
    no guarantee of any kind, and the event says so.
    """

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (3, H, W)."""
        return (3, *size)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return (3, H, W)."""
        return (3, *size)

    def release(self, images: torch.Tensor, state: base.State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return the pixels as float32; the streams are not used."""
        base.check_images(images)
        return images.to(torch.float32)

    def clean(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the pixels as float32."""
        return self.release(images, state, ())

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return (pixels - 127.5) / 127.5."""
        return (released - 127.5) / 127.5

    @property
    def mirrors(self) -> bool:
        """The release is the image."""
        return True

    def mirrored(self, released: torch.Tensor) -> torch.Tensor:
        """Return the pixels mirrored."""
        return released.flip(-1)

    def render(self, released: torch.Tensor, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return the image."""
        base.check_released(released, self.representation(size))
        return base.to_uint8(released)

    def linear(self, size: tuple[int, int], state: base.State) -> LinearMap:
        """Return that the release is the image."""
        return LinearMap("pixels")

    def unprotected(self, state: base.State) -> NonPrivate:
        """Return a `NonPrivate` event: the clean image is what would leave."""
        return NonPrivate(
            "image", "the representation or anything computed from it", "the representation is the image itself"
        )


METHOD = NoProtection
