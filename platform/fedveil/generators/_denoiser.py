"""The noise predictor: a U-Net of diffusers' blocks, told of time, identity and attributes."""

from __future__ import annotations

import importlib.util
import math
from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil import checks

GROUPS = 8
_HEAD = 32  # channels of an attention head


class Denoiser(nn.Module):
    """(B, 3, H, W) noisy pixels, times (B,), identities (B, D) and attributes (B, A) to the noise in them.

    Time and conditions are one vector, the context, which scales and shifts the channels of every residual block. A
    condition that is left out is zero, and a number beside it says so, which is a learnt empty token. Blocks of `patch`
    x `patch` pixels are channels to the U-Net (pixel unshuffle), whose widest layers then work on few places.
    """

    def __init__(
        self, size: tuple[int, int], identity: int, attributes: int, width: int, multipliers: tuple[int, ...],
        blocks: int, attention: int, patch: int, context: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = patch
        channels = 3 * patch**2
        widths = tuple(width * factor for factor in multipliers)
        sides = [max(size) // patch // 2**level for level in range(len(widths))]
        attends = [side <= attention for side in sides]
        self.unet = _blocks()(
            sample_size=sides[0],
            in_channels=channels,
            out_channels=channels,
            layers_per_block=blocks,
            block_out_channels=widths,
            down_block_types=tuple("AttnDownBlock2D" if one else "DownBlock2D" for one in attends),
            up_block_types=tuple("AttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attends)),
            attention_head_dim=min(_HEAD, width),
            norm_num_groups=GROUPS,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )
        told = 4 * width  # of the U-Net's embedding of time
        self.first = nn.Linear(identity + attributes + 2, context)
        self.second = nn.Linear(context, told)
        # An identity has length one and attributes have length sqrt(A) each at unit scale: about equal numbers.
        self.loudness = math.sqrt(identity)

    def forward(
        self, noisy: torch.Tensor, time: torch.Tensor, identity: torch.Tensor, attributes: torch.Tensor,
        kept: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Return the noise (B, 3, H, W); `kept` (B, 2) says with 1 or 0 whether identity and attributes are told."""
        told = [identity * (self.loudness * kept[:, :1]), attributes * kept[:, 1:], kept]
        context = self.second(functional.silu(self.first(torch.cat(told, 1))))
        rows = functional.pixel_unshuffle(noisy, self.patch) if self.patch > 1 else noisy
        found = self.unet(rows, time, class_labels=context, return_dict=False)[0]
        return functional.pixel_shuffle(found, self.patch) if self.patch > 1 else cast(torch.Tensor, found)


def _blocks() -> Any:
    if importlib.util.find_spec("diffusers") is None:
        raise checks.UserError(
            "generator=id3 builds its network from the library diffusers, which is not installed: "
            "pip install 'fedveil[synthesis]'."
        )
    from diffusers import UNet2DModel

    return UNet2DModel


@torch.no_grad()
def initialised(network: nn.Module, generator: torch.Generator) -> None:
    """Give a denoiser on the meta device memory and first values, from `generator` alone.

    As `models.backbones._ir.initialised`, but that the last layer of each residual path is zero: an untrained block
    changes nothing, and an untrained network predicts no noise.
    """
    for place, module in network.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.zeros(parameter.shape, device="cpu")))
        last = place.rpartition(".")[2] in ("conv_out", "conv2") or ".to_out" in place
        if isinstance(module, nn.GroupNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, nn.Conv2d | nn.Linear) and not last:
            module.weight.normal_(0.0, math.sqrt(1.0 / module.weight[0].numel()), generator=generator)
        elif not isinstance(module, nn.Conv2d | nn.Linear) and any(True for _ in module.parameters(recurse=False)):
            raise TypeError(f"No initialisation is known for {type(module).__name__}; add its case.")
