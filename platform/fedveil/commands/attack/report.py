"""A finding at 80 columns: every number beside its interval, its floor and its ceiling, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedveil.attacks.base import LEVELS, strongest

_UNITS = {"share": (100.0, " %", 1), "dB": (1.0, " dB", 1), "cosine": (1.0, "", 2), "nats": (1.0, "", 2)}


def number(value: float | None, unit: str) -> str:
    """Return a value of a unit in words of at most eight letters; a dash for none.

    >>> number(0.954, "share"), number(21.63, "dB"), number(None, "share")
    ('95.4 %', '21.6 dB', '-')
    """
    if value is None:
        return "-"
    factor, sign, digits = _UNITS.get(unit, (1.0, "", 3))
    return f"{factor * value:.{digits}f}{sign}"


def text(finding: Mapping[str, Any]) -> str:
    """Return a finding as a table, its notes and its verdict."""
    level = finding["level"]
    lines = [
        "", f"{finding['attack']} on {finding['protection']}: {level}, {finding['seconds']:.1f} s",
        f"  The attacker {LEVELS[level]}.", f"  {finding['what']}",
        f"  {'':<20}{'found':>9}{'95 %':>16}{'nothing':>10}{'mean face':>10}{'clean':>9}",
    ]  # fmt: skip
    lines += [_row(measure) for measure in finding["measures"]]
    if finding["people"]:
        groups = ", ".join(f"{group['people']} {name}" for name, group in finding["people"].items())
        lines.append(f"  people: {groups}; nobody is in two groups")
    if finding["judge"]:
        lines.append(f"  judge: {', '.join(f'{key} {value}' for key, value in finding['judge'].items())}")
    lines += [f"  {note}" for note in finding["notes"]]
    return "\n".join([*lines, f"  {finding['verdict']}"])


def _row(measure: Mapping[str, Any]) -> str:
    unit = measure["unit"]
    low, high = measure["low"], measure["high"]
    spread = "-" if low is None or high is None else f"{_bare(low, unit)} to {_bare(high, unit)}"
    parts = [number(measure[name], unit) for name in ("value", "floor", "mean_face", "ceiling")]
    return f"  {measure['name']:<20}{parts[0]:>9}{spread:>16}{parts[1]:>10}{parts[2]:>10}{parts[3]:>9}"


def _bare(value: float, unit: str) -> str:
    return number(value, unit).rstrip(" %dB")


def closing(run_id: str, findings: Sequence[Mapping[str, Any]]) -> str:
    """Return what the attacks together come to."""
    best = strongest(findings, "linked")
    lines = ["", "nothing: what no information gives; clean: what unprotected pictures give."]
    if best is not None:
        lines.append(
            f"Strongest of {', '.join(dict.fromkeys(one['attack'] for one in findings))}: {best['attack']} links "
            f"{number(best['value'], 'share')} of people. Another attack may do better; a defence counts only against "
            "those that were run."
        )
    lines.append(f"kept in {run_id}/attacks/; `fedveil report {run_id}` shows them beside accuracy and budget")
    return "\n".join(lines)
