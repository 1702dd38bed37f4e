"""Who joins a round. Rounds are drawn independently of one another, from public constants and one key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedveil import randomness
from fedveil.schema import Cohort


def expected_size(cohort: Cohort, registry: int) -> float:
    """Return the public divisor of the sum of updates: q * N for Poisson cohorts, the size for fixed ones.

    >>> expected_size(Cohort("poisson", rate=0.1), 1000)
    100.0
    """
    return cohort.rate * registry if cohort.kind == "poisson" else float(cohort.size or 0)


def draw(cohort: Cohort, registry: Sequence[str], seed: int, round_number: int) -> tuple[str, ...]:
    """Return the clients of a round, in registry order; a Poisson cohort may be empty.

    The coins come from the public seed. That is right only as long as no guarantee leans on their secrecy, which is why
    a run with a client-level budget does not use this function.

    Args:
        cohort: its law: poisson (each client by its own coin of probability `rate`) or fixed (`size` clients, without
            replacement).
        registry: all client ids.
        seed: the run's public seed.
        round_number: 1-based.
    """
    rng = randomness.public_rng(seed, "cohort", round_number)
    if cohort.kind == "poisson":
        joins = rng.random(len(registry)) < cohort.rate
        return tuple(client for client, joined in zip(registry, joins, strict=True) if joined)
    chosen = np.sort(rng.choice(len(registry), size=cohort.size, replace=False))
    return tuple(registry[i] for i in chosen)
