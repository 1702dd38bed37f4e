"""The typed shape of the training recipe beyond its plain numbers; field by field commented in configs/base.yaml."""

from __future__ import annotations

import dataclasses
from typing import Literal

from fedveil import checks


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What the local learning rates are multiplied by in each round of a stage; see `federation.rates`.

    Attributes:
        kind: which curve follows the warm-up.
        warm_up: share of the stage's rounds over which the factor rises to 1, in [0, 1).
        final: what `cosine` falls towards, in [0, 1).
        milestones: shares of the stage's rounds after which `steps` falls, rising, each in (0, 1).
        factor: what each of them multiplies by, in (0, 1].
    """

    kind: Literal["constant", "cosine", "steps"] = "constant"
    warm_up: float = 0.0
    final: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("warm_up", "final"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise checks.UserError(f"Expected {name}={value!r} in [0, 1).")
        checks.fraction(factor=self.factor)
        shares = [*self.milestones]
        if not shares or sorted(set(shares)) != shares or not 0 < shares[0] <= shares[-1] < 1:
            raise checks.UserError(
                f"Expected milestones={shares!r} as one rising share of the rounds or more, each in (0, 1)."
            )


@dataclasses.dataclass(frozen=True)
class Augment:
    """How images are varied from visit to visit in training.

    Attributes:
        flip: mirror each left to right with probability 1/2; of a kept noisy copy, the copy.
        crop: largest share of the side that a random square crop leaves out, in [0, 1).
        jitter: largest relative change of brightness, contrast and saturation, in [0, 1).
    """

    flip: bool = False
    crop: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "jitter"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise checks.UserError(f"Expected {name}={value!r} in [0, 1).")

    @property
    def distorts(self) -> bool:
        """Whether pictures are changed in ways that no release can follow."""
        return self.crop > 0 or self.jitter > 0
