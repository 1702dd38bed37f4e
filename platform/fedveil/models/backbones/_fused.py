"""Group norm, and PReLU after it, as one kernel for bfloat16 maps in channels-last order on a GPU of CUDA.

PyTorch's group norm turns such maps to channels-first and back, and convolutions in bfloat16 want channels last: the
turning then costs more than the arithmetic. Here one program holds all positions of a few whole groups of one image,
reads them twice and adds nothing at random, so the same input gives the same bits. Sums are float32.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from typing import Any

import torch


@functools.cache
def _has_triton() -> bool:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")  # which Triton's launchers need
    return compiler is not None and importlib.util.find_spec("triton") is not None


def usable(x: torch.Tensor, groups: int) -> bool:
    """Return whether the kernel takes these maps (B, C, H, W) in so many groups."""
    if not x.is_cuda or x.dtype != torch.bfloat16 or x.ndim != 4 or not _has_triton():
        return False
    channels = int(x.shape[1])
    width = channels // groups
    return width & (width - 1) == 0 and width <= 32 and channels % 32 == 0


def group_norm(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    slope: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the normalised maps, after PReLU with `slope` (C,) where it is given; of the type of `x`, channels last.

    Args:
        x: (B, C, H, W) bfloat16 or float32; other orders than channels-last are turned first.
        groups: number of groups; each has 1, 2, 4, 8, 16 or 32 channels, and C is a multiple of 32.
        weight: (C,) scale.
        bias: (C,) shift.
        eps: added to variances.
        slope: (C,) of PReLU; None: no PReLU.
    """
    found: torch.Tensor = _function().apply(
        x.contiguous(memory_format=torch.channels_last), groups, weight, bias, eps, slope
    )
    return found


@functools.cache
def _function() -> Any:
    from fedveil.models.backbones import _kernels

    return _kernels.NormAct
