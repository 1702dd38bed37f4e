"""Runs that differ in their seed alone, as one setting: what a sweep's frontier and a report show."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

UNITS = ("client", "image", "identity")


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs that differ in their seed alone.

    Attributes:
        values: swept values but the seed.
        statement: the worst statement of the axis's unit; None when no run has one.
        accuracies: one per seed.
    """

    values: Mapping[str, str]
    statement: Mapping[str, Any] | None
    accuracies: tuple[float, ...]

    @property
    def epsilon(self) -> float | None:
        """Nats; None without a guarantee."""
        return self.statement["epsilon"] if self.statement else None

    @property
    def mean(self) -> float:
        """Mean accuracy over seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (n - 1); None for one seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


def statement_of(result: Mapping[str, Any], unit: str) -> Mapping[str, Any] | None:
    """Return the worst statement of a unit in result.json: no guarantee, else the largest epsilon."""
    mine = [statement for statement in result["statements"] if statement["unit"] == unit]
    return max(mine, key=_size, default=None)


def _size(statement: Mapping[str, Any] | None) -> float:
    return math.inf if statement is None or statement["epsilon"] is None else float(statement["epsilon"])


def without_seed(values: Mapping[str, str]) -> dict[str, str]:
    """Return swept values but the seed."""
    return {key: value for key, value in values.items() if key != "seed"}


def over_seeds(items: Iterable[Item], values_of: Callable[[Item], Mapping[str, str]]) -> list[list[Item]]:
    """Return the items whose swept values are equal but for the seed, group by group, in the order of their firsts.

    >>> over_seeds([("a", 1), ("b", 1), ("a", 2)], lambda item: {"protection": item[0], "seed": str(item[1])})
    [[('a', 1), ('a', 2)], [('b', 1)]]
    """
    found: dict[frozenset[tuple[str, str]], list[Item]] = {}
    for item in items:
        found.setdefault(frozenset(without_seed(values_of(item)).items()), []).append(item)
    return [*found.values()]


def group(values: Mapping[str, str], results: Sequence[Mapping[str, Any]], unit: str) -> Group:
    """Return finished runs as one group; its statement is the worst of theirs, so no seed's lack is hidden.

    Args:
        values: swept values, the seed among them or not.
        results: result.json's content of each run; at least one.
        unit: whose statement.
    """
    worst = max((statement_of(result, unit) for result in results), key=_size)
    return Group(without_seed(values), worst, tuple(result["final"]["accuracy"] for result in results))
