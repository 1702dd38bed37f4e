"""A sweep's grid: `key=a,b,c` words and studies, split into cells, each the configuration of one run.

A study may be the union of several grids, its blocks; a cell's block is one of its values. A setting that the chosen
method lacks (a budget for `protection=none`), or that does nothing beside the others, is left out of the cell, and
cells that come to the same configuration are one cell: equal runs are run once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from fedveil import config
from fedveil.commands.sweep import blocks
from fedveil.configuration import files, idle
from fedveil.configuration.schema import Config
from fedveil.configuration.words import METHOD_GROUPS
from fedveil.federation import planning
from fedveil.federation.federation import Federation


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        values: swept key -> its value as text, without the settings that this cell's methods lack; the study's block
            under `blocks.KEY`.
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
        """The swept values in one line, e.g. `dctdp total_epsilon=8 seed=1` or `people: none epsilon=8 seed=1`."""
        return label(self.values)


def fitted(values: Mapping[str, str], room: int) -> str:
    """Return a label of at most `room` letters: where it is too long, without its block, then its end, which differs.

    >>> fitted({"block": "release", "protection": "dctdp", "protection.total_epsilon": "1000"}, 24)
    'dctdp total_epsilon=1000'
    >>> fitted({"protection": "dctdp", "protection.total_epsilon": "1000"}, 20)
    '...otal_epsilon=1000'
    """
    whole = label(values)
    if len(whole) > room:
        whole = label({key: value for key, value in values.items() if key != blocks.KEY})
    return whole if len(whole) <= room else f"...{whole[3 - room :]}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a sweep runs.

    Attributes:
        axes: swept key -> its values; `blocks.KEY` -> the blocks, where the study has some.
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
    """Return swept values in one line: block and method by their names, a setting by its last word.

    >>> label({"protection": "dctdp", "protection.total_epsilon": "8", "seed": "1"})
    'dctdp total_epsilon=8 seed=1'
    >>> label({"block": "people", "protection": "none", "privacy.identity.epsilon": "8"})
    'people: none epsilon=8'
    """
    first = f"{values[blocks.KEY]}: " if blocks.KEY in values else ""
    rest = {key: value for key, value in values.items() if key != blocks.KEY}
    last = [key.rpartition(".")[2] for key in rest]
    short = {key: word if last.count(word) == 1 else key for key, word in zip(rest, last, strict=True)}
    ordered = sorted(rest, key=lambda key: (key == "seed", key != "protection"))
    shown = (rest[key] if key in METHOD_GROUPS else f"{short[key]}={rest[key]}" for key in ordered)
    return first + " ".join(shown) if rest else first.removesuffix(": ") or "one run"


def expand(words: Iterable[str]) -> Grid:
    """Return the grid of a sweep's words; every cell's configuration is checked here, before anything runs.

    Args:
        words: `key=a,b,c`, `group=name,name`, `study=name` (its base, grid and blocks) and the single values of a run;
            a word replaces what the study says of its key, in every block that says something of it, or in all if
            none does.

    Raises:
        fedveil.checks.UserError: nothing is swept, or something that cannot change a result, or a cell is refused, or a
            word does nothing in any cell.

    >>> grid = expand(["protection=none,dctdp", "protection.total_epsilon=8,50", "seed=1"])
    >>> [cell.label for cell in grid.cells]
    ['none', 'dctdp total_epsilon=8', 'dctdp total_epsilon=50']
    >>> grid.notes
    ('protection=none has no total_epsilon: 4 combinations are 3 runs.',)
    """
    said = blocks.said(words)
    given = blocks.of(said)
    axes = blocks.axes(given)
    found = _Found(axes, said)
    for one in sorted(_combinations(given), key=lambda one: one.seed):  # stable: blocks stay together
        found.add(one)
    found.refuse_idle()
    return Grid({key: tuple(values) for key, values in axes.items()}, tuple(found.cells.values()), found.notes())


@dataclasses.dataclass(frozen=True)
class _Combination:
    """One value for every key of a block; `seed` is the place of its seed among the block's."""

    block: str
    every: Mapping[str, str]
    seed: int


def _combinations(given: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[_Combination]:
    for name, block in given.items():
        slow_first = sorted(block, key=lambda key: key != "seed")
        for combination in itertools.product(*(block[key] for key in slow_first)):
            every = dict(zip(slow_first, combination, strict=True))
            seed = block["seed"].index(every["seed"]) if "seed" in block else 0
            yield _Combination(name, {key: every[key] for key in block}, seed)


class _Found:
    """The cells so far, and what was left out of them."""

    def __init__(self, axes: Mapping[str, Sequence[str]], said: Mapping[str, str]) -> None:
        self.cells: dict[str, Cell] = {}
        self._axes, self._said = axes, said
        self._lacking: dict[tuple[str, str], dict[str, None]] = {}  # (group, setting) -> methods
        self._unread: dict[str, None] = {}
        self._nothing: dict[str, str] = {}
        self._used: set[str] = set()
        self._combinations = 0

    def add(self, one: _Combination) -> None:
        """Add the cell of a combination, unless there is an equal one."""
        self._combinations += 1
        kept = self._fitting(one.every)
        loaded, unread = _read(kept, {*self._said, *self._axes})
        self._nothing |= unread
        self._used |= {key for key in kept if key not in unread}
        name = config.digest(loaded)[:10]
        if name not in self.cells:
            values = {blocks.KEY: one.block} if blocks.KEY in self._axes else {}
            values |= {key: kept[key] for key in self._axes if key in kept and key not in unread}
            self.cells[name] = Cell(values, Federation(planning.planned(loaded)), name)
        self._unread |= dict.fromkeys(f"{key} needs {needs}" for key, needs in unread.items())

    def _fitting(self, every: Mapping[str, str]) -> dict[str, str]:
        """Return the words that this combination's methods have.

        What a person says and no method of the sweep has stays in: it is a mistake, and the configuration says which.
        """
        chosen = {group: every[group] for group in METHOD_GROUPS if group in every}
        kept = {}
        for key, value in every.items():
            group, _, setting = key.partition(".")
            swept = any(files.applies(key, {group: name}) for name in self._axes.get(group, ()))
            if not setting or files.applies(key, chosen) or (key in self._said and not swept):
                kept[key] = value
            elif key in self._said or key in self._axes:
                self._lacking.setdefault((group, setting), {})[every[group]] = None
        return kept

    def refuse_idle(self) -> None:
        """Refuse a word or an axis that does nothing in any cell."""
        for key in {*self._nothing} - self._used:
            raise idle.refusal(key, ",".join(self._axes.get(key, [self._said.get(key, "")])), self._nothing[key])

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for everything that was left out."""
        lacking = (
            f"{group}={','.join(names)} {'has' if len(names) == 1 else 'have'} no {setting}"
            for (group, setting), names in self._lacking.items()
        )
        notes = (*lacking, *self._unread)
        if len(self.cells) == self._combinations:
            return notes
        reason = "; ".join(notes) if notes else "Some values come to the same configuration"
        return (f"{reason}: {self._combinations} combinations are {len(self.cells)} runs.",)


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
