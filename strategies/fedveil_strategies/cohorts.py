"""Who joins a round: a function of public constants and of random words, in time that the cohort takes.

Nothing here grows with the registry: clients who stay at home are skipped, not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.configuration.schema import Cohort
from fedveil.federation.groups import Groups
from fedveil.privacy.sampling import Words, poisson, without_replacement


class Members(Sequence[str]):
    """The clients of a round in the registry's order, none written out.

    Attributes:
        registry: all client ids.
        places: (n,) ascending places of the members in it.
    """

    def __init__(self, registry: Sequence[str], places: NDArray[np.int64]) -> None:
        self.registry, self.places = registry, places

    def __len__(self) -> int:
        return int(self.places.size)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Members: ...
    def __getitem__(self, index: int | slice) -> str | Members:
        if isinstance(index, slice):
            return Members(self.registry, self.places[index])
        return self.registry[int(self.places[index])]


def expected_size(cohort: Cohort, registry: int) -> float:
    """Return the public divisor of the sum of updates: q * N for Poisson cohorts, the size for fixed ones.

    >>> expected_size(Cohort("poisson", rate=0.1), 1000)
    100.0
    """
    return cohort.rate * registry if cohort.kind == "poisson" else float(cohort.size or 0)


def public_words(seed: int, round_number: int) -> Words:
    """Return words from the public seed: right only where no guarantee leans on the cohort's secrecy."""
    generator = randomness.public_rng(seed, "cohort", round_number)
    return lambda count: generator.integers(0, 2**64, count, dtype=np.uint64)


def draw(cohort: Cohort, registry: Sequence[str], words: Words) -> Members:
    """Return the clients of a round, in registry order; a Poisson cohort may be empty.

    Args:
        cohort: its law: poisson (every client by its own coin of probability `rate`; at rate 1 everybody, and no word
            is drawn) or fixed (`size` of them, uniform without replacement).
        registry: all client ids; only its length is asked.
        words: fresh ones for every round.
    """
    return Members(registry, _places(cohort, len(registry), words))


def draw_group(cohort: Cohort, registry: Sequence[str], words: Words, turns: Groups, number: int) -> Members:
    """Return the clients of a round in which one group's turn has come (`federation.groups`), in registry order.

    >>> registry = [f"c{place}" for place in range(10)]
    >>> draw_group(Cohort("poisson", rate=0.25), registry, public_words(1, 1), Groups(4), 2).places.tolist()
    [1, 5, 9]
    """
    group = turns.of_round(number)
    inside = _places(turns.cohort(cohort), turns.size(len(registry), group), words)
    return Members(registry, group + turns.bands * inside)


def _places(cohort: Cohort, count: int, words: Words) -> NDArray[np.int64]:
    if cohort.kind == "poisson":
        return poisson(cohort.rate, count, words)
    return without_replacement(cohort.size or 0, count, words)
