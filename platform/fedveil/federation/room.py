"""How many images of a step a device has room for, once it has run out of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fedveil import checks, device
from fedveil.federation import graphs
from fedveil.federation.training import local_sgd
from fedveil.models.heads import base


def too_much(
    backbone: nn.Module,
    layout: Sequence[int],
    classes: int,
    head: base.Head,
    place: device.Place,
    images: int,
    trainable: Sequence[str] | None = None,
) -> checks.UserError:
    """Return what to tell after a step that had no room for `images` images at once: how many fit, found by trying.

    Args:
        backbone: of the step, on its device; its values are used up.
        layout: shape of one image's features.
        classes: number of class centres.
        head: margin head.
        place: whose memory is full.
        images: how many passed the backbone together.
        trainable: as for `local_sgd`.
    """
    graphs.forget()  # their memory is room, too

    def trial(count: int) -> None:
        features = torch.zeros(count, *layout, device=place.device)
        with torch.no_grad():
            dimension = int(backbone(features[:1]).shape[1])
        centres = torch.ones(classes, dimension, device=place.device)
        batch = (features, torch.zeros(count, dtype=torch.int64, device=place.device))
        local_sgd(backbone, centres, head, [batch], 1e-3, trainable=trainable, precision=place.precision)

    return device.out_of_memory(place, images, device.largest(trial, images))
