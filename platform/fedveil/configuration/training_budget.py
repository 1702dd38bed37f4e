"""Budgets of private training inside a client: one for images, one for people; all of it public constants."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, ClassVar, Literal

from fedveil import checks
from fedveil.configuration.marks import INFINITE


@dataclasses.dataclass(frozen=True)
class TrainingBudget:
    """A target (epsilon, delta) for one unit of a client's data, and the constants of the private steps that meet it.

    Nothing here may be derived from private data: the rate, the divisor, the clip and the number of head rows are the
    same for a data set and for its neighbour.

    Attributes:
        epsilon: target in nats; `inf` clips without noise, a baseline without a guarantee; None: `noise_multiplier`
            says the noise, and with neither there is no private training.
        delta: at which the claim stands; at most 1 / (10 x units).
        clip: C, the largest L2 norm that one unit adds to a step's sum.
        noise_multiplier: standard deviation of the noise on the sum, in units of C; found from the target unless given.
        noise_end: the last round's noise over the first round's, whose noise `noise_multiplier` is; geometric between
            (`federation.private_steps`). Below 1 later rounds hear more; 1 keeps the noise.
        sampling_rate: probability with which each unit joins a step, by its own secret coin.
        expected_batch: the divisor of the noisy sum; None takes `train.batch_size`. Steps are longer or shorter by it.
        clipping: "whole" clips the vector of all gradients to C; "layers" each of L tensors to C / sqrt(L); "automatic"
            scales every unit to nearly C (Bu et al. 2023, https://arxiv.org/abs/2206.07136).
        views: how often a picture is varied (`train.augment`) in a step; views are averaged before the clip.
        head: "trained": the class centres are in the clipped and noised vector; "fixed": they are drawn once from the
            public seed and never move.
        rows: number of class centres. A person's is the one that a hash of the name says, so it does not depend on who
            else is there; two people may share one.
        gradients: how per-unit gradients are clipped (`private_training`); changes rounding and cost alone.
    """

    unit: ClassVar[Literal["image", "identity"]]

    epsilon: Annotated[float, INFINITE] | None = None
    delta: float | None = 1e-5
    clip: float = 1.0
    noise_multiplier: float | None = None
    noise_end: float = 1.0
    sampling_rate: float = 0.1
    expected_batch: int | None = None
    clipping: Literal["whole", "layers", "automatic"] = "whole"
    views: int = 1
    head: Literal["trained", "fixed"] = "trained"
    rows: int = 256
    gradients: Literal["auto", "book_keeping", "low_memory", "loop", "opacus_hooks", "opacus_ghost"] = "auto"

    def __post_init__(self) -> None:
        here = f"privacy.{self.unit}"
        if self.epsilon is not None and not (self.epsilon == math.inf or 1e-6 <= self.epsilon <= 1e6):
            raise checks.UserError(f"Expected {here}.epsilon={self.epsilon!r} > 0 (1e-6 to 1e6), `inf` or `none`.")
        if not 0 < self.sampling_rate <= 1:
            raise checks.UserError(
                f"Expected {here}.sampling_rate={self.sampling_rate!r} in (0, 1]: it is the probability with which "
                f"each {self.unit} joins a step, not a number of them."
            )
        checks.within(1e-6, 1e7, **{f"{here}.clip": self.clip})
        checks.within(1e-2, 1e2, **{f"{here}.noise_end": self.noise_end})
        if self.noise_multiplier is not None:
            checks.within(1e-6, 1e7, **{f"{here}.noise_multiplier": self.noise_multiplier})
        checks.within(1, 1 << 16, **{f"{here}.rows": self.rows})
        checks.within(1, 256, **{f"{here}.views": self.views})
        if self.rows < 2:
            raise checks.UserError(f"Expected {here}.rows={self.rows} of at least 2: one class teaches nothing.")
        if self.expected_batch is not None:
            checks.positive(**{f"{here}.expected_batch": self.expected_batch})

    @property
    def asked(self) -> bool:
        """Whether anything is asked for: a target, or noise."""
        return self.epsilon is not None or self.noise_multiplier is not None


@dataclasses.dataclass(frozen=True)
class ImageBudget(TrainingBudget):
    """A budget for one image of a client."""

    unit = "image"


@dataclasses.dataclass(frozen=True)
class IdentityBudget(TrainingBudget):
    """A budget for one person of a client: all images of a person are clipped together.

    Attributes:
        images_per_step: how many images of a person a step looks at, at most, drawn by secret coins; their mean is
            clipped.
    """

    unit = "identity"

    images_per_step: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within(1, 1000, **{"privacy.identity.images_per_step": self.images_per_step})
