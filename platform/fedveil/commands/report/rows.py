"""The rows of a report: one setting each, with its accuracy over seeds, its statements, and its strongest attacks.

Nothing is averaged over attacks, and nothing over runs but accuracy: a defence counts only against the strongest attack
that was run, so what a row says of leakage is one finding, the largest, with that finding's own interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedveil.attacks.base import LEAKS
from fedveil.commands import _groups
from fedveil.commands._groups import UNITS, Group
from fedveil.commands.report.gathered import Gathered, Seen, attacked
from fedveil.commands.sweep import grid
from fedveil.configuration import idle, plugins
from fedveil.configuration.schema import Config
from fedveil.configuration.words import ATTACK

NOT_RUN, NOT_MEASURED = "not run", "not measured"


@dataclasses.dataclass(frozen=True)
class Leak:
    """The strongest attack by one measure.

    Attributes:
        seen: the run that was attacked.
        finding: what the attack found there.
        measure: the measure, whose value is not None.
    """

    seen: Seen
    finding: Mapping[str, Any]
    measure: Mapping[str, Any]

    @property
    def value(self) -> float:
        """In the measure's unit."""
        return float(self.measure["value"])


@dataclasses.dataclass(frozen=True)
class Row:
    """The finished runs that differ in their seed alone.

    Attributes:
        method: protection, and every swept value that is no budget.
        place: the method's number in the report, which gives its colour and marker.
        budget: the budgets that were asked for.
        runs: at least one, each with its result.
        group: accuracies.
        statements: unit -> the worst statement of these runs; units of which none says anything are absent.
        leaks: measure -> the strongest attack by it; None where no attack measured it.
    """

    method: str
    place: int
    budget: str
    runs: tuple[Seen, ...]
    group: Group
    statements: Mapping[str, Mapping[str, Any]]
    leaks: Mapping[str, Leak | None]

    @property
    def name(self) -> str:
        """Method and budget."""
        return f"{self.method}, {self.budget}" if self.budget else self.method

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks that were run on any of the runs."""
        return sorted({finding["attack"] for _, finding in attacked(self.runs)})

    @property
    def not_run(self) -> list[str]:
        """Names of the attacks that nobody ran on any of them."""
        return [name for name in known_attacks() if name not in self.attacks]

    @property
    def collapsed(self) -> bool:
        """Whether every run's model tells people apart no better than guessing."""
        return all(seen.result is not None and bool(seen.result.get("collapsed")) for seen in self.runs)

    @property
    def meaningful(self) -> list[Mapping[str, Any]]:
        """The statements that mean something."""
        return [one for one in self.statements.values() if one["meaningful"]]

    @property
    def worst(self) -> Leak | None:
        """The strongest attack by the most telling measure that any attack took."""
        return next((leak for leak in self.leaks.values() if leak is not None), None)

    def lacking(self, name: str) -> str:
        """Return what stands in the place of a number that is not there, which is never 0."""
        return NOT_MEASURED if self.attacks else NOT_RUN


def known_attacks() -> list[str]:
    """Return the names of all attacks."""
    return plugins.names(ATTACK)


def strongest(found: Iterable[tuple[Seen, Mapping[str, Any]]], name: str) -> Leak | None:
    """Return the largest value of a measure over runs and attacks, of equal ones the first; None: not measured."""
    leaks = [
        Leak(seen, finding, measure)
        for seen, finding in found
        for measure in finding["measures"]
        if measure["name"] == name and measure["value"] is not None
    ]
    return max(leaks, key=lambda leak: leak.value, default=None)


def rows(gathered: Gathered) -> list[Row]:
    """Return a row for each setting of which a run has finished, in the grid's order of methods and budgets."""
    made: list[Row] = []
    places: dict[str, int] = {}
    for runs in gathered.settings:
        first = runs[0]
        assert first.settings is not None  # it has finished
        name = method(first.values, first.settings)
        results = [seen.result for seen in runs if seen.result is not None]
        groups = {unit: _groups.group(first.values, results, unit) for unit in UNITS}
        found = attacked(runs)
        made.append(
            Row(
                name, places.setdefault(name, len(places)), budget(first.settings), tuple(runs), groups[UNITS[0]],
                {unit: one.statement for unit, one in groups.items() if one.statement is not None},
                {leak: strongest(found, leak) for leak in LEAKS},
            )
        )  # fmt: skip
    return sorted(made, key=lambda row: row.place)


def _budgets(settings: Config) -> dict[str, Any]:
    """Return the budgets that a run was given, by their keys; those that it does not read are none."""
    found = {f"protection.{key}": value for key, value in settings.protection.settings.items()
             if key.endswith("epsilon")}  # fmt: skip
    for unit in UNITS:
        if (block := getattr(settings.privacy, unit)) is not None:
            found[f"privacy.{unit}.epsilon"] = block.epsilon
    unread = dict(idle.found(found, settings))
    return {key: value for key, value in found.items() if key not in unread}


def budget(settings: Config) -> str:
    """Return the budgets that a run was given, e.g. `total_epsilon 8`; empty for none."""
    said = []
    for key, value in _budgets(settings).items():
        section, *_, last = key.split(".")
        name = f"{key.split('.')[1]} epsilon" if section == "privacy" else last
        said.append(f"{name} {'unset' if value is None else format(value, 'g')}")
    return ", ".join(said)


def method(values: Mapping[str, str], settings: Config) -> str:
    """Return what a run is beside its budget and seed: protection, private training, other swept values.

    Runs with private training of one unit are a method of their own, whose budgets are the points of one line.
    """
    kept = {
        key: value
        for key, value in _groups.without_seed(values).items()
        if not (key.endswith("epsilon") and key.split(".")[0] in ("protection", "privacy"))
    }
    private = [f"{unit}-level training" for unit in UNITS if getattr(settings.privacy, unit) is not None]
    own = settings.method if "data" in kept else settings.title
    return ", ".join([grid.label({**kept, "protection": own}), *private])


def methods(found: Sequence[Row]) -> dict[str, int]:
    """Return every method with its place."""
    return {row.method: row.place for row in found}
