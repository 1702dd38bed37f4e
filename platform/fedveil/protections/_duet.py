"""DuetFace's client: its part of the channels, its attention masks, and its net's training on public faces."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil import frequency
from fedveil.configuration import plugins
from fedveil.models import guided
from fedveil.models.backbones.mobilefacenet import MobileFaceModule, MobileFaceNet
from fedveil.models.heads import base as heads
from fedveil.protections.base import Progress, State

CLIENT = (0, 1, 2, 3, 4, 5, 8, 9, 16, 24)
"""The frequencies 8u + v of each colour that stay with the client: what an eye sees of the picture."""

SERVER = tuple(k for k in range(64) if k not in CLIENT)
"""The other 54, which leave."""

PREFIX = "client/"
"""Of the client net's tensors in a state."""

_EMBEDDING = 512  # as published, times the width
_BATCH = 32
_LR = 0.03  # published: 0.1, with which GroupNorm leaves no plateau in a few hundred steps
# Without both of these all embeddings may fall into one direction and stay there, depending on size and faces.
_WARM_UP = 0.2  # part of the steps over which the learning rate grows
_LONGEST = 10.0  # L2 norm to which a longer gradient is cut
_MOMENTUM, _WEIGHT_DECAY = 0.9, 5e-4  # published, as is that the learning rate falls by 10 at these parts:
_MILESTONES = (10 / 24, 18 / 24, 22 / 24)
_TEMPLATE = 112.0  # side of the crops in which the ellipse is given
_CENTRE, _SEMI_AXES = (66.0, 56.0), (48.0, 36.0)  # row and column
_EDGE = 3.0  # width of the ellipse's soft edge


def client_model(width: float) -> MobileFaceNet:
    """Return the client net's description."""
    return MobileFaceNet(width=width, embedding=max(8, round(_EMBEDDING * width)))


@functools.lru_cache(maxsize=8)
def skeleton(width: float, size: tuple[int, int]) -> MobileFaceModule:
    """Return the client net without values; only for shapes and `functional_call`."""
    return client_model(width).skeleton(3 * len(CLIENT), size)


def client_features(images: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the client net's input (B, 30, H, W), about unit scale; it must never leave."""
    return frequency.upsampled_dct(images, CLIENT).div_(scales[:, None, None])


@functools.lru_cache(maxsize=8)
def region(size: tuple[int, int], roi: str) -> torch.Tensor:
    """Return the region of interest (H, W) in [0, 1]: ones, or an ellipse where aligned faces are; do not modify.

    The published region is the convex hull of each image's landmarks. Faces here are aligned to one template, so one
    constant ellipse serves, needs no landmark net and tells nothing about the image.
    """
    if roi == "none":
        return torch.ones(size)
    rows, columns = ((torch.arange(side) + 0.5) * (_TEMPLATE / side) - 0.5 for side in size)
    down, across = (rows - _CENTRE[0]) / _SEMI_AXES[0], (columns - _CENTRE[1]) / _SEMI_AXES[1]
    radius = (down.square()[:, None] + across.square()).sqrt()
    return (0.5 + (1.0 - radius) * math.sqrt(math.prod(_SEMI_AXES)) / _EDGE).clamp(0.0, 1.0)


def stretched(maps: torch.Tensor) -> torch.Tensor:
    """Return maps (B, h, w) with each image's values from 0 to 1; a constant map stands out nowhere and becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)


def attention(taps: Sequence[torch.Tensor], face: torch.Tensor) -> list[torch.Tensor]:
    """Return the four masks (B, h, w) of the client net's taps, m = n(n(mean over channels) * face), enlarged.

    As the paper draws it: no convolution in between. `face` is the region (H, W); n is `stretched`; resizing is
    bilinear with half-pixel centres.
    """
    size = (int(face.shape[0]), int(face.shape[1]))
    masks = []
    for tap, target in zip(taps, guided.mask_sizes(size), strict=True):
        shape = (int(tap.shape[2]), int(tap.shape[3]))
        focus = stretched(stretched(tap.mean(1)) * _resized(face[None], shape))
        masks.append(_resized(focus, target))
    return masks


def _resized(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def packed_masks(images: torch.Tensor, state: State, width: float, roi: str) -> torch.Tensor:
    """Return the plane of masks (B, 1, H, W) of uint8 images, without a graph: the client net is frozen here.

    One image passes the net at a time, so that its masks do not depend on the others in a single bit.
    """
    size = (int(images.shape[2]), int(images.shape[3]))
    weights = {f"net.{name.removeprefix(PREFIX)}": state[name] for name in state if name.startswith(PREFIX)}
    given = (images, state["client_rms"], region(size, roi).to(images.device))
    with torch.no_grad():
        return cast(torch.Tensor, torch.func.functional_call(_Masks(skeleton(width, size)), weights, given))


class _Masks(nn.Module):
    def __init__(self, net: MobileFaceModule) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor, scales: torch.Tensor, face: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(images), 1, *face.shape, device=images.device)
        for index in range(len(images)):
            taps = self.net.taps(client_features(images[index : index + 1], scales))
            out[index] = guided.packed(attention(taps, face), (face.shape[0], face.shape[1]))[0]
        return out


def train(
    net: MobileFaceModule,
    images: torch.Tensor,
    scales: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
    steps: int,
    progress: Progress | None,
) -> None:
    """Train the client net in place on public faces: SGD with momentum, warm-up and clipped steps, a margin softmax.

    Args:
        net: the client net with its first values.
        images: (N, 3, H, W) uint8 public faces.
        scales: (30,) root mean squares of the client's channels.
        labels: (N,) int64 identities 0..K-1.
        generator: public randomness of batches and first class centres.
        steps: SGD steps.
        progress: told after each step.
    """
    head = plugins.build("head", "cosface", {"scale": 24.0, "margin": 0.2})
    embedding = net.embed.out_features
    centres = torch.randn(int(labels.max()) + 1, embedding, generator=generator).div_(math.sqrt(embedding))
    centres = centres.to(images.device)
    tensors = [*net.parameters(), centres.requires_grad_(True)]
    velocity = [torch.zeros_like(tensor) for tensor in tensors]
    for step in range(steps):
        chosen = torch.randint(len(labels), (min(_BATCH, len(labels)),), generator=generator)
        loss = heads.loss(head, net(client_features(images[chosen], scales)), centres, labels[chosen])
        gradients = torch.autograd.grad(loss, tensors)
        length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        share = _LONGEST / length.clamp(min=_LONGEST)
        lr = _LR * min(1.0, (step + 1) / (_WARM_UP * steps)) * 0.1 ** sum(step >= part * steps for part in _MILESTONES)
        with torch.no_grad():
            for tensor, moving, gradient in zip(tensors, velocity, gradients, strict=True):
                moving.mul_(_MOMENTUM).add_(gradient * share).add_(tensor, alpha=_WEIGHT_DECAY)
                tensor.add_(moving, alpha=-lr)
        if progress is not None:
            progress(step + 1, steps)
