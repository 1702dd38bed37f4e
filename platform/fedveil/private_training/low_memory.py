"""Half of a plain step's memory at most, where the network's parts allow it: the same sums, in parts of few rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from fedveil.private_training import _sizes, base, choice


@dataclasses.dataclass(frozen=True)
class LowMemory:
    """Whatever `choice.choose` takes when it may need under half of what ordinary SGD needs."""

    def __call__(
        self, network: nn.Module, loss: base.Loss, batch: base.Batch, tensors: Sequence[nn.Parameter], clip: base.Clip
    ) -> base.ClippedSum:
        """See `base.Engine`."""
        sizes = _sizes.measured(network, batch.inputs[:1], tensors)
        chosen = choice.choose(network, batch, tensors, sizes.low(len(batch.unit)))
        return chosen.engine(network, loss, batch, tensors, clip)


METHOD = LowMemory
