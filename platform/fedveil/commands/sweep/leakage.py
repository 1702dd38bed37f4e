"""What attacks got out of a sweep's runs: of each measure the strongest attack's, per run and over seeds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedveil.attacks.base import LEAKS, strongest
from fedveil.commands.sweep import grid
from fedveil.commands.sweep.sweep import Outcome

_HEADS = {"linked": "linked", "rank1": "rank-1", "replayed": "replayed", "ssim": "SSIM"}
_WIDTH = 11


def of(findings: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the largest value of each measure over attacks; None where none of them measured it.

    >>> of([{"attack": "a", "measures": [{"name": "linked", "value": 0.2}]},
    ...     {"attack": "b", "measures": [{"name": "linked", "value": 0.9}, {"name": "ssim", "value": None}]}])
    {'linked': 0.9, 'rank1': None, 'replayed': None, 'ssim': None}
    """
    listed = [*findings]
    best = {name: strongest(listed, name) for name in LEAKS}
    return {name: None if measure is None else float(measure["value"]) for name, measure in best.items()}


@dataclasses.dataclass(frozen=True)
class Leak:
    """What attacks got out of the runs that differ in their seed alone.

    Attributes:
        values: swept values but the seed.
        mean: measure -> mean over seeds of each run's strongest attack; None where no run has it.
        runs: how many of the runs were attacked.
    """

    values: Mapping[str, str]
    mean: Mapping[str, float | None]
    runs: int


def over_seeds(outcomes: Sequence[Outcome]) -> list[Leak]:
    """Return what attacks got, setting by setting in the grid's order; without the settings that nobody attacked."""
    found: dict[tuple[tuple[str, str], ...], list[dict[str, float | None]]] = {}
    for outcome in outcomes:
        if outcome.findings:
            key = tuple((k, v) for k, v in outcome.cell.values.items() if k != "seed")
            found.setdefault(key, []).append(of(outcome.findings.values()))
    return [
        Leak(dict(key), {name: _mean(one[name] for one in each) for name in LEAKS}, len(each))
        for key, each in found.items()
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def table(outcomes: Sequence[Outcome]) -> str:
    """Return what attacks got as text, 80 columns: a row a setting, then what clean pictures and nothing give."""
    rows = [f"{'what attacks recovered':<31}{'n':>3}" + "".join(f"{_HEADS[name]:>{_WIDTH}}" for name in LEAKS)]
    for leak in over_seeds(outcomes):
        name = grid.fitted(leak.values, 31) if leak.values else "all"
        rows.append(f"{name:<31}{leak.runs:>3}" + _cells(leak.mean))
    for said, field in (("clean pictures", "ceiling"), ("the mean face", "mean_face"), ("no information", "floor")):
        rows.append(f"{f'({said})':<34}" + _cells({name: _beside(outcomes, name, field) for name in LEAKS}))
    return "\n".join(rows)


def explained(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what the table's numbers are, in sentences; none where nothing was attacked."""
    measured = _measures(outcomes)
    if not measured:
        return []
    ran = sorted({str(finding["attack"]) for outcome in outcomes for finding in outcome.findings.values()})
    said = {name: next((str(one["said"]) for one in measured if one["name"] == name), "") for name in LEAKS}
    return [
        f"each number: the strongest of {', '.join(ran)} on a run, mean over n runs; another attack may do better",
        *(f"{_HEADS[name]}: {clause}" for name, clause in said.items() if clause),
    ]


def _measures(outcomes: Sequence[Outcome]) -> list[Mapping[str, Any]]:
    return [one for outcome in outcomes for finding in outcome.findings.values() for one in finding["measures"]]


def _beside(outcomes: Sequence[Outcome], name: str, field: str) -> float | None:
    """Return the mean of what stands beside the strongest attack's measure: each attack has a ceiling of its own."""
    best = (strongest([*outcome.findings.values()], name) for outcome in outcomes)
    return _mean(one[field] for one in best if one is not None)


def _cells(values: Mapping[str, float | None]) -> str:
    return "".join(f"{_number(name, values[name]):>{_WIDTH}}" for name in LEAKS)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if name == "ssim" else f"{100 * value:.1f} %"
