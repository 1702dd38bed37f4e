"""MinusFace's maps and its first phase: a generator, trained together with a recogniser of what it leaves over."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import device, frequency
from fedveil.configuration import plugins
from fedveil.models import unet
from fedveil.models.heads import base as heads
from fedveil.protections import _learn
from fedveil.protections.base import Progress, State
from fedveil.randomness import SecretStream

CHANNELS = 192
"""Channels of x, x' and r: 64 frequencies of 3 colours."""

DC = (0, 64, 128)
"""The block means; the generator starts as the map that copies them."""

PREFIX = "generator/"
"""Of the generator's tensors in a state."""

GREY = 128.0 / 255.0
"""What an empty residue decodes to: the transform centres its planes at 128 of 255."""

_SMALLEST_UNIT = 1e-3  # of white: channels that hardly ever differ from 0 stay small
_BATCHES = (8, 32)  # smallest and largest; in between as many images as fit the number of values below
_VALUES = 4_000_000
_EMBEDDING = 64
_RECOGNISER_LR = 2e-3


def encode(images: torch.Tensor, unit: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return x = e(images), (B, 192, H, W), of images in 0..255: every channel in its own `unit` (192,) of white."""
    return frequency.upsampled_dct(images, out=out).mul_((1.0 / (255.0 * unit)).view(CHANNELS, 1, 1))


def decode(coefficients: torch.Tensor) -> torch.Tensor:
    """Return d, (B, 3, H, W), of coefficients in units of white: affine, black 0, white 1, no clamp; zeros: `GREY`."""
    return frequency.published_decode(coefficients, white=1.0)


def units(images: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of every channel over public images, (192,), in units of white, at least 0.001."""
    one = torch.ones(CHANNELS, device=images.device)
    mean = torch.stack([encode(image[None], one)[0].square().mean((1, 2)) for image in images]).mean(0)
    return mean.sqrt().clamp(min=_SMALLEST_UNIT)


def permutation(stream: SecretStream, count: int = CHANNELS) -> NDArray[np.int64]:
    """Return one of the count! orders, all equally likely: the ranks of independent uniform numbers, if all differ."""
    while True:
        drawn = stream.uniform(count)
        order = drawn.argsort()
        if np.all(np.diff(drawn[order]) > 0):
            return order


@functools.lru_cache(maxsize=4)
def skeleton(width: int) -> unet.UNet:
    """Return the generator without values."""
    return unet.skeleton(CHANNELS, CHANNELS, width)


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the generator's tensors in a state."""
    return {PREFIX + name: tuple(tensor.shape) for name, tensor in skeleton(width).named_parameters()}


def parameters(state: State) -> dict[str, torch.Tensor]:
    """Return the generator's tensors by the network's own names."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


@torch.no_grad()
def trunks(
    images: torch.Tensor, network: nn.Module, weights: Mapping[str, torch.Tensor], unit: torch.Tensor
) -> torch.Tensor:
    """Return what g's last layer is fed, (B, width + 1, H, W), of uint8 images; a plane of ones stands for its bias.

    It is nearly all of g's arithmetic and a fraction of its output's size. One image at a time: convolutions of other
    batch sizes may round differently. It shows the face: never release.
    """
    height, width = int(images.shape[2]), int(images.shape[3])
    buffer = torch.empty(1, CHANNELS, height, width, device=images.device)
    found = torch.ones(len(images), weights["last.weight"].shape[1] + 1, height, width, device=images.device)
    for index in range(len(images)):
        encoded = encode(images[index : index + 1], unit, buffer)
        found[index, :-1] = torch.func.functional_call(network, dict(weights), (encoded,), {"last": False})[0]
    return found


@torch.no_grad()
def residue(
    image: torch.Tensor, trunk: torch.Tensor, weights: Mapping[str, torch.Tensor], unit: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Return r = x - g(x) of one uint8 image (1, 3, H, W), in units of white, in `out` (1, 192, H, W). Never release.

    `trunk` (width + 1, H, W) is the image's row of `trunks`. The last layer and the difference are one product.
    """
    last = torch.cat([weights["last.weight"].flatten(1), weights["last.bias"][:, None]], 1) * unit[:, None]
    encoded = frequency.upsampled_dct(image, out=out).view(CHANNELS, -1)
    torch.addmm(encoded, last, trunk.flatten(1), beta=1.0 / 255.0, alpha=-1.0, out=encoded)
    return out


class GeneratorWithRecogniser(nn.Module):
    """g and f of the first phase, fed images X in [-1, 1] (B, 3, H, W); the embedding is f's of r = x - g(x).

    Both networks see coefficients in the channels' units, so that neither starts blind to 189 of 192 channels. That is
    the published pipeline up to a fixed factor per channel, which the outer layers could absorb.

    Attributes:
        generator: g, from 192 channels to 192.
        recogniser: f, from 192 channels to (B, D).
        unit: (192,) of white, public.
        weight: of the image error in the loss.
    """

    def __init__(self, generator: nn.Module, recogniser: nn.Module, unit: torch.Tensor, weight: float) -> None:
        super().__init__()
        self.generator = generator
        self.recogniser = recogniser
        self.unit = unit  # a plain attribute: neither trained nor aggregated
        self.weight = weight

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.unit = fn(self.unit)  # goes where the parameters go
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (B, D)."""
        return self.with_penalty(pictures)[0]

    def with_penalty(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings and weight * mean|X - X'|, X' = 2 d(g(x)) - 1 without a clamp."""
        with device.exactly(pictures.device):  # colours and frequencies are no layer's to round
            encoded = encode((pictures + 1.0) * 127.5, self.unit).contiguous(memory_format=torch.channels_last)
        generated = self.generator(encoded)
        with device.exactly(pictures.device):
            decoded = 2.0 * decode(generated * self.unit.view(CHANNELS, 1, 1)) - 1.0
            error = (pictures - decoded).abs().mean()
        return cast(torch.Tensor, self.recogniser(encoded - generated)), self.weight * error


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1.0


def trained(
    images: torch.Tensor,
    targets: torch.Tensor,
    unit: torch.Tensor,
    width: int,
    weight: float,
    steps: int,
    lr: float,
    generator: torch.Generator,
    progress: Progress | None,
) -> dict[str, torch.Tensor]:
    """Return the generator's tensors, trained with a small recogniser that is thrown away.

    Published are SGD, 24 epochs over millions of faces and a random start. Here the generator starts as the map that
    copies the block means, whose residue is the details, and takes `steps` steps of Adam from there.

    Args:
        images: (N, 3, H, W) uint8 public faces.
        targets: (N,) int64 identities 0..K-1.
        unit: (192,) of white.
        width: of the generator's first level.
        weight: of the image error.
        steps: Adam steps.
        lr: of the generator; the recogniser's is fixed.
        generator: public randomness of first values and batches.
        progress: told after each step.
    """
    size = (int(images.shape[2]), int(images.shape[3]))
    batch = min(max(_VALUES // (CHANNELS * size[0] * size[1]), _BATCHES[0]), _BATCHES[1], len(images))
    made = unet.build(CHANNELS, CHANNELS, width, generator, copied=DC).to(images.device)
    tiny = plugins.build("model", "tiny_ir", {"embedding": _EMBEDDING}).build(CHANNELS, size, generator)
    tiny = tiny.to(images.device)
    network = GeneratorWithRecogniser(made, tiny, unit, weight)
    head = plugins.build("head", "cosface", {"scale": 24.0, "margin": 0.2})
    centres = torch.randn(int(targets.max()) + 1, _EMBEDDING, generator=generator).to(images.device)
    centres.requires_grad_(True)
    optimiser = _learn.Adam([([*tiny.parameters(), centres], _RECOGNISER_LR), (list(made.parameters()), lr)])
    for step in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        embeddings, penalty = network.with_penalty(to_unit(images[chosen]))
        torch.autograd.backward(heads.loss(head, embeddings, centres, targets[chosen]) + penalty)
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
    return {PREFIX + name: tensor.detach() for name, tensor in made.named_parameters()}


def fingerprint(state: State) -> str:
    """Return the SHA-256 of the generator and its units, 64 hexadecimal digits: all clients must use the same ones."""
    digest = hashlib.sha256()
    for name in sorted(key for key in state if key.startswith(PREFIX) or key == "unit"):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()
