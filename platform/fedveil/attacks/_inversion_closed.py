"""What an update tells without any search: the input of a linear layer with a bias.

The gradient of such a layer is the sum over images of slope times input, that of its bias the sum of the slopes. Of one
image the first over the second is the input itself (Phong et al. 2018, https://doi.org/10.1109/TIFS.2017.2787987). Of
several it is their mean, weighted by the slopes.

A recogniser ends with such a layer: its input gives the template, because the layer is public. So a template leaks from
the backbone alone, although class centres stay with their owner.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from fedveil.attacks._inversion_steps import Work
from fedveil.records import Tensors


def template(work: Work, update: Tensors) -> tuple[torch.Tensor | None, str]:
    """Return the template (D,) that the last linear layer's update gives, or why there is none.

    Exact for one image and one step; for more of either a weighted mean of templates.
    """
    linear = [(name, module) for name, module in work.network.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not linear:
        return None, "the network does not end with a linear layer"
    name, _ = linear[0]
    found = _input(work, update, name)
    if found is None:
        return None, f"the update does not carry weight and bias of {name}"
    return work.tensors[f"{name}.weight"] @ found + work.tensors[f"{name}.bias"], ""


def first_layer(work: Work, update: Tensors, shape: tuple[int, ...]) -> tuple[torch.Tensor | None, str]:
    """Return the network's input (C, H, W) that the first layer's update gives, or why there is none.

    Args:
        work: the local steps.
        update: what was observed of them.
        shape: of one input.
    """
    own = [(name, one) for name, one in work.network.named_modules() if [*one.parameters(recurse=False)]]
    name, module = own[0]
    if not isinstance(module, nn.Linear) or module.in_features != math.prod(shape):
        kind = type(module).__name__
        return None, f"the first layer ({name}, {kind}) is not linear in the whole input: places share its weights"
    found = _input(work, update, name)
    if found is None:
        return None, f"the update does not carry weight and bias of the first layer ({name})"
    return found.view(shape), ""


def _input(work: Work, update: Tensors, name: str) -> torch.Tensor | None:
    """Return a linear layer's input, (in_features,): the weighted mean of rows over the bias, None without both."""
    seen = dict(zip(work.allowed, work.observed(update), strict=True))
    weight, bias = seen.get(f"{name}.weight"), seen.get(f"{name}.bias")
    if weight is None or bias is None:
        return None
    return weight.T @ bias / bias.square().sum().clamp(min=1e-20)
