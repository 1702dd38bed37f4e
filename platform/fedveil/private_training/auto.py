"""The fastest engine that fits: chosen at each batch by shapes alone, never by an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from fedveil.private_training import base, choice


@dataclasses.dataclass(frozen=True)
class Auto:
    """Whatever `choice.choose` takes.

    Attributes:
        memory: bytes that a step may need beside the network; None: half of what is free at the time.
    """

    memory: int | None = None

    def __call__(
        self, network: nn.Module, loss: base.Loss, batch: base.Batch, tensors: Sequence[nn.Parameter], clip: base.Clip
    ) -> base.ClippedSum:
        """See `base.Engine`."""
        chosen = choice.choose(network, batch, tensors, self.memory)
        return chosen.engine(network, loss, batch, tensors, clip)


METHOD = Auto
