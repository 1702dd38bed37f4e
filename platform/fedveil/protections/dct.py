"""All frequency channels, as the papers lay them out and without any protection: what the layout alone costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, frequency
from fedveil.device import on_host
from fedveil.privacy.events import NonPrivate
from fedveil.protections import _channels, base
from fedveil.protections._linear import LinearMap
from fedveil.randomness import SecretStream

_CHANNELS = 192


@dataclass(frozen=True)
class AllChannels(base.Protection):
    """All 192 upsampled block-DCT channels, nothing hidden: linear algebra gives the picture back exactly.

    The row "ArcFace on all channels" of the papers' tables (PartialFace, https://arxiv.org/abs/2308.10461). The image
    is an exact linear function of the representation, so there is no guarantee of any kind.
    """

    @property
    def needs_fit(self) -> bool:
        """The channels' scales."""
        return True

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (192, H, W)."""
        return (_CHANNELS, *size)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return (192, H, W)."""
        return (_CHANNELS, *size)

    def fit(
        self,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: base.Progress | None = None,
        device: torch.device = base.CPU,
    ) -> dict[str, torch.Tensor]:
        """Return `scale` (192,), from public faces."""
        return {"scale": _channels.scales(base.placed(public, device), None).cpu()}

    def release(self, images: torch.Tensor, state: base.State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return the channels; the streams are not used."""
        base.check_images(images)
        return frequency.upsampled_dct(images)

    def clean(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the channels."""
        return self.release(images, state, ())

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return each channel divided by its public scale."""
        base.check_state(state, {"scale": (_CHANNELS,)})
        return released / state["scale"][:, None, None]

    @property
    def mirrors(self) -> bool:
        """Channels do not mix."""
        return True

    def mirrored(self, released: torch.Tensor) -> torch.Tensor:
        """Return the channels of the mirrored image."""
        return frequency.mirrored(released)

    def render(self, released: torch.Tensor, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return the image."""
        base.check_released(released, self.representation(size))
        return base.to_uint8(frequency.exact_inverse(released))

    def check_state(self, state: base.State, size: tuple[int, int]) -> None:
        """Raise `UserError` unless the state holds a positive scale per channel."""
        base.check_state(state, {"scale": (_CHANNELS,)})
        checks.positive(smallest_scale=float(on_host(state)["scale"].min()))

    def linear(self, size: tuple[int, int], state: base.State) -> LinearMap:
        """Return that all channels leave."""
        return LinearMap("upsampled", (tuple(range(64)),))

    def unprotected(self, state: base.State) -> NonPrivate:
        """Return a `NonPrivate` event: the transform is invertible."""
        return NonPrivate(
            "image", "the representation or anything computed from it", "all channels leave, and they invert exactly"
        )


METHOD = AllChannels
