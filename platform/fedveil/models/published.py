"""Public checkpoints of IResNets with BatchNorm, as InsightFace's arcface_torch names their tensors, on our networks.

BatchNorm in evaluation is x -> w (x - mean) / sqrt(var + eps) + b with constants: a scale and a shift of each channel,
up to rounding. GroupNorm is not: it divides by numbers of the image at hand, which no constants replace. So such a
checkpoint fits `model.norm=affine` alone. Pixels are RGB, (p - 127.5) / 127.5, as `protection=none` feeds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EPS = 1e-5
_STATISTIC = ".running_mean"
_IGNORED = ".num_batches_tracked"
_UNIT = {"bn1": "norm0", "conv1": "conv1", "bn2": "norm1", "prelu": "act", "conv2": "conv2", "bn3": "norm2",
         "downsample.0": "shortcut.0", "downsample.1": "shortcut.1"}  # fmt: skip
_WHOLE = {
    "conv1": "stem",
    "bn1": "norm",
    "prelu": "act",
    "bn2": "norm_map",
    "fc": "embed",
    "features": "norm_embedding",
}
_LAYER = re.compile(r"layer(\d+)\.(\d+)\.(.+)")

Tensors = Mapping[str, NDArray[Any]]


def has_statistics(tensors: Tensors) -> bool:
    """Return whether a checkpoint holds BatchNorm's running statistics."""
    return any(name.endswith(_STATISTIC) for name in tensors)


def converted(tensors: Tensors, stages: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """Return a public checkpoint under our names, its statistics folded into scales and shifts.

    Args:
        tensors: by the names of arcface_torch; `module.` in front, which parallel training leaves there, is dropped.
            A name that is none of theirs stays as it is.
        stages: units of each stage of our network.
    """
    plain = {name.removeprefix("module."): value for name, value in tensors.items()}
    found: dict[str, NDArray[np.float32]] = {}
    for name, value in plain.items():
        owner, _, kind = name.rpartition(".")
        ours = _ours(owner, stages)
        if f"{owner}{_STATISTIC}" not in plain:
            found[f"{ours}.{kind}"] = value.astype(np.float32)
        elif name.endswith(_STATISTIC):
            scale, shift = _folded(plain, owner)
            found |= {f"{ours}.weight": scale, f"{ours}.bias": shift}
    return {name: value for name, value in found.items() if not name.endswith(_IGNORED)}


def _folded(tensors: Tensors, owner: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean = tensors[f"{owner}{_STATISTIC}"].astype(np.float64)
    variance = tensors.get(f"{owner}.running_var", np.ones_like(mean)).astype(np.float64)
    weight, bias = tensors.get(f"{owner}.weight", np.ones_like(mean)), tensors.get(f"{owner}.bias", np.zeros_like(mean))
    with np.errstate(invalid="ignore", divide="ignore"):  # a file's values: what is not finite is refused by its reader
        scale = weight.astype(np.float64) / np.sqrt(variance + _EPS)
    return scale.astype(np.float32), (bias - mean * scale).astype(np.float32)


def _ours(owner: str, stages: Sequence[int]) -> str:
    if (inside := _LAYER.fullmatch(owner)) is None:
        return _WHOLE.get(owner, owner)
    layer, unit, part = int(inside[1]), int(inside[2]), inside[3]
    if not 1 <= layer <= len(stages) or unit >= stages[layer - 1] or part not in _UNIT:
        return owner
    return f"units.{sum(stages[: layer - 1]) + unit}.{_UNIT[part]}"
