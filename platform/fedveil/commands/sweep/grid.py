"""A sweep's grid: `key=a,b,c` words and studies, split into cells, each the configuration of one run.

A setting that the chosen method lacks (a budget for `protection=none`), or that does nothing beside the others, is left
out of the cell, and cells that come to the same configuration are one cell: equal runs are run once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from fedveil import checks, config
from fedveil.configuration import files, idle, settings, text
from fedveil.configuration.schema import Config
from fedveil.configuration.words import METHOD_GROUPS, later
from fedveil.federation import planning
from fedveil.federation.federation import Federation

_NO_RESULT = ("engine", "tracking", "runs", "vault", "device", "device_batch")
"""Sections that are no part of a run's hash: sweeping them would find the first one's run again."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        values: swept key -> its value as text, without the settings that this cell's methods lack.
        federation: of the run's whole configuration.
        name: a hash of everything that can change the run's result, 10 hexadecimal digits.
    """

    values: Mapping[str, str]
    federation: Federation
    name: str

    @property
    def settings(self) -> Config:
        """The run's whole configuration."""
        return self.federation.settings

    @property
    def label(self) -> str:
        """The swept values in one line, e.g. `dctdp total_epsilon=8 seed=1`."""
        return label(self.values)


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a sweep runs.

    Attributes:
        axes: swept key -> its values.
        cells: distinct configurations, all first seeds first, so that a whole frontier is there early.
        notes: one sentence for everything that was left out.
        name: a hash over the cells: equal grids have equal names, however they were written.
    """

    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Eight hexadecimal digits."""
        return config.hashed(sorted(cell.name for cell in self.cells))[:8]


def label(values: Mapping[str, str]) -> str:
    """Return swept values in one line: a method by its name, a setting by its last word.

    >>> label({"protection": "dctdp", "protection.total_epsilon": "8", "seed": "1"})
    'dctdp total_epsilon=8 seed=1'
    """
    last = [key.rpartition(".")[2] for key in values]
    short = {key: word if last.count(word) == 1 else key for key, word in zip(values, last, strict=True)}
    ordered = sorted(values, key=lambda key: (key == "seed", key != "protection"))
    shown = (values[key] if key in METHOD_GROUPS else f"{short[key]}={values[key]}" for key in ordered)
    return " ".join(shown) or "one run"


def expand(words: Iterable[str]) -> Grid:
    """Return the grid of a sweep's words; every cell's configuration is checked here, before anything runs.

    Args:
        words: `key=a,b,c`, `group=name,name`, `study=name` (its base and grid) and the single values of a run; a word
            replaces what the study says of its key.

    Raises:
        fedveil.checks.UserError: nothing is swept, or something that cannot change a result, or a cell is refused, or a
            word does nothing in any cell.

    >>> grid = expand(["protection=none,dctdp", "protection.total_epsilon=8,50", "seed=1"])
    >>> [cell.label for cell in grid.cells]
    ['none', 'dctdp total_epsilon=8', 'dctdp total_epsilon=50']
    >>> grid.notes
    ('protection=none has no total_epsilon: 4 combinations are 3 runs.',)
    """
    said = _said(words)
    axes, first = _axes(said)
    if not axes:
        raise checks.UserError("Nothing to sweep: give a key several values, e.g. seed=1,2,3, or a study with a grid.")
    for key in axes:
        if key.partition(".")[0] in _NO_RESULT:
            raise checks.UserError(
                f"{key} is no part of what is computed, so there is nothing to sweep; give it one value."
            )
    slow_first = sorted(axes, key=lambda key: key != "seed")
    cells: dict[str, Cell] = {}
    lacking: dict[str, None] = {}
    nothing: dict[str, str] = {}
    used: set[str] = set()
    combinations = list(itertools.product(*(axes[key] for key in slow_first)))
    for combination in combinations:
        every = {**first, **dict(zip(slow_first, combination, strict=True))}
        kept, dropped = _fitting(every, axes)
        loaded, unread = _read(kept, {*said, *axes})
        nothing |= unread
        used |= {key for key in kept if key not in unread}
        name = config.digest(loaded)[:10]
        if name not in cells:
            federation = Federation(planning.planned(loaded))
            values = {key: every[key] for key in axes if key in kept and key not in unread}
            cells[name] = Cell(values, federation, name)
        lacking |= dict.fromkeys([*dropped, *(f"{key} needs {needs}" for key, needs in unread.items())])
    for key in {*nothing} - used:
        raise idle.refusal(key, ",".join(axes.get(key, [first.get(key, "")])), nothing[key])
    notes = tuple(lacking)
    if len(cells) < len(combinations):
        reason = "; ".join(notes) if notes else "Some values come to the same configuration"
        notes = (f"{reason}: {len(combinations)} combinations are {len(cells)} runs.",)
    return Grid({key: tuple(values) for key, values in axes.items()}, tuple(cells.values()), notes)


def _words(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _read(kept: Mapping[str, str], said: Collection[str]) -> tuple[Config, dict[str, str]]:
    """Return a cell's configuration without the settings that do nothing in it, and {each of those: what it needs}.

    What a study holds beside its grid stays: nobody said it.
    """
    loaded = config.compose(_words(kept))
    blocks = {key: kept[key] for key in kept if key in said and kept[key].strip().startswith("{")}
    idle.refuse(blocks, loaded)
    unread = dict(idle.found((key for key in kept if key in said), loaded))
    if unread:
        loaded = config.compose(_words({key: value for key, value in kept.items() if key not in unread}))
    return loaded, unread


def _said(words: Iterable[str]) -> dict[str, str]:
    """Return the words by key, `study` included; of two for one key the later counts."""
    given: dict[str, str] = {}
    for word in words:
        key, equals, text_ = word.partition("=")
        if not equals or not key:
            raise checks.UserError(f"Expected group=name, section.key=value or key=a,b,c, got {word!r}.")
        if key.startswith("engine."):
            raise checks.UserError(f"{word} does nothing in a sweep, where every run is one process: use --workers N.")
        given = later(given, {key: text_})
    return given


def _axes(said: Mapping[str, str]) -> tuple[dict[str, Sequence[str]], dict[str, str]]:
    """Return swept keys with their values, and every key, in the order in which they count, with its first value."""
    if len(names := text.pieces(said.get("study", ""))) > 1:
        raise checks.UserError(f"Expected one study, got study={','.join(names)}.")
    given: dict[str, list[str]] = {}
    if "study" in said:
        base, grid = files.study(said["study"])
        given = {key: [value] for key, _, value in (word.partition("=") for word in base)} | grid
    given = later(given, {key: _values(key, value) for key, value in said.items() if key != "study"})
    axes = {key: values for key, values in given.items() if len(values) > 1}
    return dict(axes), {key: values[0] for key, values in given.items()}


def _values(key: str, value: str) -> list[str]:
    """Return the values that commas separate: those in quotes separate nothing, nor do those of a list in brackets."""
    is_list = settings.takes_lists(key)  # a path may hold a bracket
    found = [each if is_list else text.unquoted(each) for each in text.pieces(value, lists=is_list)]
    if "" in found:
        raise checks.UserError(f"{key}={value} has an empty value; write key=a,b,c without a comma at the end.")
    return found


def _fitting(every: Mapping[str, str], axes: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """Return the words that this combination's methods have, and a sentence for each that was left out.

    A setting that no method of the sweep has stays in: it is a mistake, and the configuration says which.
    """
    chosen = {group: every[group] for group in METHOD_GROUPS if group in every}
    kept, dropped = {}, []
    for key, value in every.items():
        group, _, setting = key.partition(".")
        known = any(files.applies(key, {group: name}) for name in axes.get(group, ()))
        if setting and known and not files.applies(key, chosen):
            dropped.append(f"{group}={every[group]} has no {setting}")
        else:
            kept[key] = value
    return kept, dropped
