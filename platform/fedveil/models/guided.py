"""DuetFace's recogniser: a backbone whose stages are weighted by the client's attention masks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _ir

MASKS = 4
"""Masks of one image; mask k = 1..4 has a side of 1/2^k of the image's, like the four stages of an IR network."""


def mask_sizes(size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return the four masks' (height, width) for images of this size, whose sides are multiples of 16.

    >>> mask_sizes((112, 112)), sum(math.prod(size) for size in mask_sizes((112, 112)))
    (((56, 56), (28, 28), (14, 14), (7, 7)), 4165)
    """
    return tuple((size[0] // 2**k, size[1] // 2**k) for k in range(1, MASKS + 1))


def packed(masks: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Return one plane (B, 1, H, W) that begins with the masks (B, h, w), row by row and in order; the rest is 0."""
    for mask, expected in zip(masks, mask_sizes(size), strict=True):
        checks.same_shape(expected, mask=mask.shape[1:])
    flat = torch.cat([mask.flatten(1) for mask in masks], 1)
    return functional.pad(flat, (0, math.prod(size) - flat.shape[1])).view(-1, 1, *size)


def unpacked(plane: torch.Tensor) -> list[torch.Tensor]:
    """Return the four masks (B, 1, h, w) of a plane (B, 1, H, W) made by `packed`."""
    size = (int(plane.shape[2]), int(plane.shape[3]))
    sizes = mask_sizes(size)
    counts = [math.prod(part) for part in sizes]
    parts = torch.split(plane.flatten(1)[:, : sum(counts)], counts, 1)
    return [part.view(-1, 1, *of) for part, of in zip(parts, sizes, strict=True)]


class Guided(nn.Module):
    """A backbone with DuetFace's interactive block behind every stage that has a mask of its size.

    The last plane of the input is `packed` masks and the others go to the backbone. With F a stage's output and m the
    mask, the published block (https://arxiv.org/abs/2207.07340) gives S + w m S with S = sigmoid(F), w one scalar per
    mask that starts at 0. In the published network a BatchNorm follows wherever S goes; without one, S being positive,
    all embeddings point in one direction and training stays there. So gate "normalised" puts a GroupNorm without
    parameters behind the block; gate "published" does not.

    The first stage of a mask's size takes it. A stage of another size stays as it is, a mask without a stage is unused.

    Attributes:
        backbone: from the other planes (B, C, H, W) to (B, D); its `forward` takes an optional hook `after`.
        gate: "normalised" or "published".
        mask_weights: the four w.
    """

    def __init__(self, backbone: nn.Module, gate: str) -> None:
        super().__init__()
        if "after" not in inspect.signature(backbone.forward).parameters:
            raise checks.UserError(
                f"Expected a model whose stages can be guided, got {type(backbone).__name__}: its forward() takes no "
                "hook `after`. Choose another model, or another protection than duetface."
            )
        self.backbone = backbone
        self.gate = gate
        self.mask_weights = nn.Parameter(torch.zeros(MASKS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, D) from (B, C + 1, H, W)."""
        waiting = {mask.shape[2:]: (index, mask) for index, mask in enumerate(unpacked(x[:, -1:]))}

        def interact(stage: torch.Tensor) -> torch.Tensor:
            if stage.shape[2:] not in waiting:
                return stage
            index, mask = waiting.pop(stage.shape[2:])
            gated = stage.sigmoid()
            gated = gated + self.mask_weights[index] * mask * gated
            if self.gate == "published":
                return gated
            return functional.group_norm(gated, max(1, stage.shape[1] // _ir.GROUP_CHANNELS))

        return cast(torch.Tensor, self.backbone(x[:, :-1], after=interact))
