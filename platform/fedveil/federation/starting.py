"""A file that a backbone starts from: read by code that runs nothing of it, and fitted to the network or refused.

Files are checkpoints of runs (.npz), safetensors, and PyTorch's .pt, .pth and .bin, whose pickle is read by PyTorch's
own reader of weights alone.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks, runs
from fedveil.data.names import printable
from fedveil.models import published
from fedveil.storage import safetensors

_TORCH = (".pt", ".pth", ".bin")
_INSIDE = ("state_dict", "state_dict_backbone", "backbone", "model")  # where training scripts put a network's tensors

Arrays = Mapping[str, NDArray[Any]]


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file by name.

    Raises:
        fedveil.checks.UserError: naming the file and what is wrong with it.
    """
    if path.suffix == safetensors.SUFFIX:
        tensors, meta = safetensors.unpack(path)
        own = "model_sha256" in meta  # written by `fedveil export`: a protection's state lies beside the backbone
        return {k[9:]: v for k, v in tensors.items() if k.startswith("backbone.")} if own else tensors
    if path.suffix in _TORCH:
        return _of_torch(path)
    arrays, _ = runs.unpack(path)
    return {name[7:]: value for name, value in arrays.items() if name.startswith("tensor/")}


def check_public(path: Path) -> None:
    """Refuse a file that is declared public and says itself that it is not: a generator's file says whom it learnt.

    Raises:
        fedveil.checks.UserError: naming the file, what it says, and the remedy.
    """
    if path.suffix != safetensors.SUFFIX:
        return
    _, meta = safetensors.unpack(path)
    try:
        said = json.loads(meta["origin"])
        mode, learnt_from = said["mode"], said["learnt_from"]
    except (KeyError, TypeError, ValueError, RecursionError):  # a file of somebody else
        return
    if mode != "public":
        raise checks.UserError(
            f"{path} says that it learnt from {printable(str(learnt_from))} (mode {printable(str(mode))}), and "
            "train.warm_start_is_public=true contradicts it. Start from a public generator, or leave that word out: "
            "then the run claims nothing."
        )


def fitted(path: Path, backbone: nn.Module, model: str) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a file under the names of a network, all of them and of its shapes.

    Args:
        path: of the file.
        backbone: the network.
        model: its name in the configuration.

    Raises:
        fedveil.checks.UserError: naming the file, the first tensor that does not fit, and the remedy.
    """
    tensors: Arrays = read(path)
    stages = getattr(backbone, "stages", None)
    if published.has_statistics(tensors):
        if stages is None or getattr(backbone, "kind", None) != "affine":
            raise checks.UserError(
                f"{path} holds running statistics of BatchNorm, and model={model} as configured normalises each image "
                "by itself, which no constants replace. An IResNet with model.norm=affine computes what it did."
            )
        tensors = published.converted(tensors, [units for _, units in stages])
    wanted = {name: tuple(tensor.shape) for name, tensor in backbone.named_parameters()}
    what = "model, data.size and protection"
    if hasattr(backbone, "denoiser"):
        what = "generator.* settings, model and data.size"
    remedy = f"Choose the {what} that it was trained with, or another file than {path.name}."
    for name, shape in wanted.items():
        if name not in tensors:
            raise checks.UserError(f"{path} does not fit model={model}: it has no tensor {name} {shape}. {remedy}")
        if tuple(tensors[name].shape) != shape:
            found = tuple(tensors[name].shape)
            raise checks.UserError(
                f"{path} does not fit model={model}: its tensor {name} has shape {found}, not {shape}. {remedy}"
            )
        if not np.isfinite(tensors[name]).all():
            raise checks.UserError(f"{path} does not fit model={model}: its tensor {name} is not finite. {remedy}")
    if more := [name for name in tensors if name not in wanted]:
        raise checks.UserError(f"{path} does not fit model={model}, which has no tensor {more[0]}. {remedy}")
    return {name: np.asarray(tensors[name], np.float32) for name in wanted}


def _of_torch(path: Path) -> dict[str, NDArray[Any]]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise checks.UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = (str(error) or "it is cut short").splitlines()[0]
        raise checks.UserError(
            f"{path} is not a readable file of PyTorch weights: {reason[:90]} Save the network's state_dict() alone."
        ) from error
    for name in _INSIDE:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise checks.UserError(f"{path} is no table of tensors: save the network's state_dict() alone.")
    host = {str(name): value.detach() for name, value in found.items()}
    return {name: (value.float() if value.is_floating_point() else value).numpy() for name, value in host.items()}
