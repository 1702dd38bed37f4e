"""Who joins a round: a function of public constants and of one uniform number per client of the registry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.configuration.schema import Cohort


def expected_size(cohort: Cohort, registry: int) -> float:
    """Return the public divisor of the sum of updates: q * N for Poisson cohorts, the size for fixed ones.

    >>> expected_size(Cohort("poisson", rate=0.1), 1000)
    100.0
    """
    return cohort.rate * registry if cohort.kind == "poisson" else float(cohort.size or 0)


def public_uniforms(seed: int, round_number: int, registry: int) -> NDArray[np.float64]:
    """Return (registry,) numbers from the public seed: right only where no guarantee leans on the cohort's secrecy."""
    return randomness.public_rng(seed, "cohort", round_number).random(registry)


def draw(cohort: Cohort, registry: Sequence[str], uniforms: NDArray[np.float64]) -> tuple[str, ...]:
    """Return the clients of a round, in registry order; a Poisson cohort may be empty.

    Args:
        cohort: its law: poisson (client i joins when its number is below `rate`) or fixed (the clients of the `size`
            smallest numbers: uniform without replacement).
        registry: all client ids.
        uniforms: (N,) independent uniform numbers; fresh ones for every round.
    """
    if cohort.kind == "poisson":
        return tuple(registry[i] for i in np.flatnonzero(uniforms < cohort.rate).tolist())
    chosen = np.sort(np.argpartition(uniforms, (cohort.size or 1) - 1)[: cohort.size])
    return tuple(registry[i] for i in chosen.tolist())
