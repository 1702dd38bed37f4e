"""What the IR backbones share: the residual unit of improved residual networks and an initialisation by generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import nn

from fedveil import checks, device
from fedveil.models.backbones import _fused, _norm

GROUP_CHANNELS = 8
"""Channels that one normalisation group holds, so every width is a multiple of it."""

_FEW_CHANNELS = 32

Hook = Callable[[torch.Tensor], torch.Tensor]
"""Replaces the output (B, C, h, w) of a stage by a tensor of the same shape; called once per stage, in order."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation that keeps its input's type: autocast would widen every map to float32 and back.

    Means and variances are taken in float32 either way.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised maps, of the shape and type of `x`."""
        if _norm.usable(x):
            return _norm.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        if x.dtype == torch.float32:
            return super().forward(x)
        if _fused.usable(x, self.num_groups):
            return _fused.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        with device.exactly(x.device):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return nn.functional.group_norm(x, self.num_groups, weight, bias, self.eps)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the norm that stands in for BatchNorm: it mixes no images, so per-image gradients and clients stay apart.

    Group normalisation: Wu and He 2018, https://arxiv.org/abs/1803.08494.
    """
    return GroupNorm(channels // GROUP_CHANNELS, channels)


class Affine(nn.Module):
    """A scale and a shift of each channel: what BatchNorm computes once its statistics are frozen; mixes no images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return weight x + bias for (B, C, ...), of the type of `x`."""
        shape = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.bias.to(x.dtype).view(shape), x, self.weight.to(x.dtype).view(shape))


def norm_act(norm: nn.Module, act: nn.PReLU, x: torch.Tensor) -> torch.Tensor:
    """Return act(norm(x)), in one kernel where there is one and nobody took over what the modules compute."""
    own = "forward" not in vars(norm) and "forward" not in vars(act)
    if own and isinstance(norm, nn.GroupNorm) and _fused.usable(x, norm.num_groups):
        return _fused.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, act.weight)
    return cast(torch.Tensor, act(norm(x)))


Norm = Callable[[int], nn.Module]
"""Number of channels -> a norm's module: `group_norm` or `Affine`."""


class IRUnit(nn.Module):
    """3x3 convolution, norm, PReLU, 3x3 convolution, norm, plus a shortcut (ArcFace, https://arxiv.org/abs/1801.07698).

    The published unit (`published=True`) has one more norm in front and its stride in the second convolution; the
    cheap one has its stride in the first, which halves the work of both. With `norm=Affine` a shortcut with a stride is
    always projected, as in the networks that such tensors come from.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, published: bool, norm: Norm = group_norm
    ) -> None:
        super().__init__()
        first, second = (1, stride) if published else (stride, 1)
        self.norm0 = norm(channels_in) if published else nn.Identity()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, first, 1, bias=False)
        self.norm1 = norm(channels_out)
        self.act = nn.PReLU(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, second, 1, bias=False)
        self.norm2 = norm(channels_out)
        self.shortcut: nn.Module
        if channels_in != channels_out or (stride > 1 and norm is Affine):
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm(channels_out)) if published else projection
        else:
            self.shortcut = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, channels_out, ceil(H / stride), ceil(W / stride))."""
        inner = self.norm2(self.conv2(norm_act(self.norm1, self.act, self.conv1(self.norm0(x)))))
        return cast(torch.Tensor, inner + self.shortcut(x))


def run_stem(stem: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return stem(x) in the channels-last layout, in which every later convolution is faster.

    That holds in float32 on a CPU and in bfloat16 on a GPU (`_fused`). A few channels are turned before the stem. The
    frequency methods' up to 192 go in as they come: turning them takes as long as the convolution does.
    """
    if x.shape[1] <= _FEW_CHANNELS:
        x = x.contiguous(memory_format=torch.channels_last)
    return cast(torch.Tensor, stem(x)).contiguous(memory_format=torch.channels_last)


def run_stages(stages: Iterable[Iterable[nn.Module]], x: torch.Tensor, after: Hook | None) -> torch.Tensor:
    """Return `x` after every unit of every stage, with `after` applied to the last one's output of each stage."""
    for units in stages:
        for unit in units:
            x = unit(x)
        if after is not None:
            x = after(x)
    return x


def check_build(in_channels: int, size: tuple[int, int], divisor: int, smallest: int) -> None:
    """Raise `UserError` unless both sides are multiples of `divisor` and at least `smallest`, and channels positive."""
    checks.positive(in_channels=in_channels)
    if any(side % divisor or side < smallest for side in size):
        raise checks.UserError(
            f"Expected size={size!r} with both sides multiples of {divisor} and at least {smallest}; "
            "choose another data.size, or a protection whose layout has such a size."
        )


@torch.no_grad()
def initialised(meta_network: nn.Module, generator: torch.Generator) -> None:
    """Give a network built on the meta device memory and its first values, from `generator` alone.

    Convolutions: Kaiming normal by fan-out; linear maps: normal of variance 1 / fan-in, zero bias; norms: identity;
    PReLU: slope 0.25. Parameters are filled in the order of `modules()`, so a seed names a network exactly.
    """
    for module in meta_network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):  # to_empty() would import SymPy, 0.4 s
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device="cpu")))
        match module:
            case nn.Conv2d():
                fan_out = module.out_channels * math.prod(module.kernel_size) / module.groups
                module.weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
            case nn.Linear():
                module.weight.normal_(0.0, math.sqrt(1.0 / module.in_features), generator=generator)
                module.bias.zero_()
            case nn.GroupNorm():
                if module.affine:
                    module.weight.fill_(1.0)
                    module.bias.zero_()
            case Affine():
                module.weight.fill_(1.0)
                module.bias.zero_()
            case nn.PReLU():
                module.weight.fill_(0.25)
            case _ if any(True for _ in module.parameters(recurse=False)):
                raise TypeError(f"No initialisation is known for {type(module).__name__}; add its case.")
