"""How what leaves depends on the pixels, where it does so linearly: public knowledge, which `Protection.linear` tells.

Whoever holds releases may invert them with it; an attack does. It holds settings and the public state alone, never a
draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A release that is a linear map of the centred planes Y, Cb, Cr, plus noise of mean zero.

    Attributes:
        transform: "pixels" (the image itself), "block" (`frequency.block_dct`) or "upsampled" (`upsampled_dct`).
        orders: the frequencies 8u + v that left of each colour, as they stand in the release, which is colour-major:
            one order, or each that a secret draw may have chosen; (0,) for "pixels".
        align_corners: of the upsampled transform.
        noise: variance of the noise, broadcasts to (3 * len(order), h, w) of the release; None without noise.
    """

    transform: Literal["pixels", "block", "upsampled"]
    orders: tuple[tuple[int, ...], ...] = ((0,),)
    align_corners: bool = True
    noise: torch.Tensor | None = None
