"""DuetFace: the visible frequencies stay with the client, which sends attention masks in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks, frequency
from fedveil.frequency.subset import subset_inverse
from fedveil.models import guided
from fedveil.privacy.events import NonPrivate
from fedveil.protections import _channels, _duet, base
from fedveil.protections._linear import LinearMap
from fedveil.randomness import SecretStream, public_torch

_SENT = 3 * len(_duet.SERVER)


@dataclass(frozen=True)
class DuetFace(base.Protection):
    """162 of 192 frequency channels plus the client's attention masks (DuetFace, ACM MM 2022); inverts linearly.

    As published (https://arxiv.org/abs/2207.07340) the client keeps the ten most visible frequencies of each colour and
    its MobileFaceNet reads them; what leaves are the other 54 and four masks of where that net looks, which weight the
    recogniser's stages (see `models.guided`). There is no guarantee of any kind, because the 54 hold all of the picture
    but one constant per colour: `render` gets it back by least squares (`frequency.subset`).

    Departures: the client net is trained on public faces first and by the federation (`client_rounds`) after that,
    before the recogniser's rounds, in which it is frozen as published; a constant ellipse replaces each image's
    landmarks; every norm is a GroupNorm, because clients share no batch, and one more follows the sigmoids, where the
    paper has a BatchNorm (`gate`); the channels are divided by their root mean square on public faces.

    Attributes:
        client_width: multiplier of the client net's channels; 1 as published, 0.25 is cheap on a CPU.
        client_rounds: federated rounds of the client net before the recogniser's; 0 keeps it as public faces made it.
        fit_steps: SGD steps of the client net on public faces, 32 images each.
        roi: "ellipse" keeps the masks to where an aligned face is, "none" does not.
        gate: the interactive block: "normalised" puts a GroupNorm behind the published one, "published" does not.
    """

    client_width: float = 0.25
    client_rounds: int = 10
    fit_steps: int = 100
    roi: Literal["ellipse", "none"] = "ellipse"
    gate: Literal["normalised", "published"] = "normalised"

    def __post_init__(self) -> None:
        checks.within(0.01, 16, client_width=self.client_width)
        checks.non_negative(client_rounds=self.client_rounds, fit_steps=self.fit_steps)
        checks.one_of(("ellipse", "none"), roi=self.roi)
        checks.one_of(("published", "normalised"), gate=self.gate)

    @property
    def needs_fit(self) -> bool:
        """The client net and the channels' scales."""
        return True

    @property
    def phases(self) -> tuple[base.Phase, ...]:
        """Return the client net's federated training, unless it has no rounds."""
        return (ClientPhase(self.client_width, self.client_rounds),) if self.client_rounds else ()

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (163, H, W): 162 channels and one plane that begins with the masks, of which only they are sent."""
        if any(side % 16 or side < 16 for side in size):
            raise checks.UserError(
                f"Expected size={size!r} with both sides multiples of 16, at least 16: the smallest mask has a "
                "sixteenth of the side. Choose another data.size."
            )
        return (_SENT + 1, *size)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return (163, H, W)."""
        return self.representation(size)

    def payload(self, size: tuple[int, int]) -> int:
        """Return the bytes of 162 channels and four masks, float32."""
        self.representation(size)
        return 4 * (_SENT * math.prod(size) + sum(math.prod(mask) for mask in guided.mask_sizes(size)))

    def network(self, model: Any, size: tuple[int, int], generator: torch.Generator) -> nn.Module:
        """Return the backbone on 162 channels with the interactive block behind its stages."""
        self.representation(size)
        return guided.Guided(model.build(_SENT, size, generator), self.gate)

    def fit(
        self,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: base.Progress | None = None,
        device: torch.device = base.CPU,
    ) -> dict[str, torch.Tensor]:
        """Return `server_scale` (162,) and `client_rms` (30,) of the channels, and the client net's tensors."""
        images = base.placed(public, device)
        size = base.check_images(images)
        self.representation(size)
        checks.same_shape((len(images),), labels=labels.shape)
        identities, targets = np.unique(labels, return_inverse=True)
        if len(images) < 1 or (self.fit_steps > 0 and len(identities) < 2):
            raise checks.UserError(
                f"Expected public faces of at least 2 people to train the client net on, got {len(images)} faces of "
                f"{len(identities)}; give more, or set protection.fit_steps: 0 and give at least 1 face."
            )
        generator = public_torch(seed, "duetface", "fit")
        net = _duet.client_model(self.client_width).build(3 * len(_duet.CLIENT), size, generator).to(device)
        scales = _channels.rms(images, _duet.CLIENT)
        if self.fit_steps > 0:
            _duet.train(net, images, scales, torch.from_numpy(targets).to(device), generator, self.fit_steps, progress)
        trained = {_duet.PREFIX + name: tensor.detach().clone() for name, tensor in net.named_parameters()}
        return base.fetched(
            {"client_rms": scales, "server_scale": _channels.scales(images, _duet.SERVER), **trained}
        )

    def release(self, images: torch.Tensor, state: base.State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return (B, 163, H, W); the streams are not used. Each image by itself, so that no batch changes a bit."""
        return self._released(images, state, None)

    def _released(self, images: torch.Tensor, state: base.State, masks: torch.Tensor | None) -> torch.Tensor:
        size = self._checked(images, state)
        out = torch.empty(len(images), *self.representation(size), device=images.device)
        if images.device.type == "cpu":
            for index in range(len(images)):
                frequency.upsampled_dct(images[index : index + 1], _duet.SERVER, out=out[index : index + 1, :_SENT])
        else:
            out[:, :_SENT] = frequency.upsampled_dct(images, _duet.SERVER)
        out[:, _SENT:] = self.prepared(images, state) if masks is None else masks
        return out

    def clean(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the release: it has no randomness."""
        return self.release(images, state, ())

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the channels over their root mean square on public faces, and the masks as they are."""
        self._check_release(released, state)
        return torch.cat([released[:, :_SENT] / state["server_scale"][:, None, None], released[:, _SENT:]], 1)

    def training_features(self, images: torch.Tensor, state: base.State, visit: base.Visit) -> torch.Tensor:
        """Return the features of the release, bit by bit, without its second copy of the channels."""
        out = self._released(images, state, visit.prepared)
        out[:, :_SENT].div_(state["server_scale"][:, None, None])
        return out

    def prepared(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the plane of masks (B, 1, H, W): most of a release's time, and the client net is frozen."""
        self._checked(images, state)
        return _duet.packed_masks(images, state, self.client_width, self.roi)

    def render(self, released: torch.Tensor, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return what anybody can compute from the 162 channels; each colour's missing mean is taken as mid-grey."""
        checks.same_shape(size, size_of_the_release=self._check_release(released, state))
        return base.to_uint8(subset_inverse(released[:, :_SENT], _duet.SERVER))

    def linear(self, size: tuple[int, int], state: base.State) -> LinearMap:
        """Return the map to the 162 channels, which come first; the masks behind them are no linear map."""
        return LinearMap("upsampled", (_duet.SERVER,))

    def unprotected(self, state: base.State) -> NonPrivate:
        """Return a `NonPrivate` event: a fixed linear map, without noise and invertible, of the image leaves."""
        return NonPrivate(
            "image",
            "the 162 channels and four masks of each image, and anything computed from them",
            "the channels are a noiseless linear map of the image that least squares inverts up to one constant per "
            "colour; training reads the clean image",
        )

    def _checked(self, images: torch.Tensor, state: base.State) -> tuple[int, int]:
        size = base.check_images(images)
        self.check_state(state, size)
        return size

    def _check_release(self, released: torch.Tensor, state: base.State) -> tuple[int, int]:
        size = (int(released.shape[2]), int(released.shape[3]))
        base.check_released(released, self.representation(size))
        self.check_state(state, size)
        return size

    def check_state(self, state: base.State, size: tuple[int, int]) -> None:
        """Raise `UserError` unless the state holds this client net, and a scale for each of its and our channels."""
        self.representation(size)
        net = _duet.skeleton(self.client_width, size)
        shapes = {_duet.PREFIX + name: tuple(tensor.shape) for name, tensor in net.named_parameters()}
        base.check_state(state, {"client_rms": (3 * len(_duet.CLIENT),), "server_scale": (_SENT,), **shapes})


@dataclass(frozen=True)
class ClientPhase:
    """The client net's own rounds: the clients train it on their kept channels, as a recogniser of its own.

    Attributes:
        width: multiplier of its channels.
        rounds: federated rounds.
        name: for the terminal and the history.
    """

    width: float
    rounds: int
    name: str = "client net"

    def features(self, images: torch.Tensor, state: base.State, visit: base.Visit) -> torch.Tensor:
        """Return the kept channels (B, 30, H, W), about unit scale; they are read inside the client only."""
        base.check_images(images)
        return _duet.client_features(images, state["client_rms"])

    def network(self, model: Any, size: tuple[int, int], state: base.State, generator: torch.Generator) -> nn.Module:
        """Return the client net as the public faces left it; the configured backbone is not part of this phase."""
        net = _duet.client_model(self.width).build(3 * len(_duet.CLIENT), size, generator)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(state[_duet.PREFIX + name])
        return net

    def finish(
        self,
        tensors: Mapping[str, NDArray[np.float32]],
        state: base.State,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: base.Progress | None = None,
        device: torch.device = base.CPU,
    ) -> tuple[dict[str, torch.Tensor], dict[str, NDArray[np.float32]]]:
        """Return the state with the aggregated client net in it, and nothing for the recogniser to start from."""
        trained = {_duet.PREFIX + name: torch.from_numpy(value.copy()) for name, value in tensors.items()}
        return {**state, **trained}, {}


METHOD = DuetFace
