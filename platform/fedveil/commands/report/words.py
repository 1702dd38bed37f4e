"""What a report says in sentences: the result first, numbers with their meaning, the ledger of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedveil import readback
from fedveil.attacks.base import LEAKS
from fedveil.commands import summary
from fedveil.commands.attack import report as attack_report
from fedveil.commands.report import rows as report_rows
from fedveil.commands.report.gathered import Seen
from fedveil.commands.report.rows import NOT_MEASURED, NOT_RUN, Leak, Row
from fedveil.privacy import statements
from fedveil.privacy.statements import MEANINGFUL

GUESSING = "no better than guessing"
_UNITS = {"image": "an image", "identity": "an identity", "client": "a client"}


def percent(value: float | None) -> str:
    """Return e.g. `78.2 %`; a dash for nothing."""
    return "–" if value is None else f"{100 * value:.1f} %"


def accuracy(row: Row) -> str:
    """Return mean and spread over seeds, e.g. `78.2 ± 1.5 %`."""
    spread = "" if row.group.sd is None else f" ± {100 * row.group.sd:.1f}"
    return f"{100 * row.group.mean:.1f}{spread} %"


def number(value: float | None, unit: str) -> str:
    """Return a measure's value with its unit.

    >>> number(0.194, "share"), number(23.31, "dB"), number(None, "share")
    ('19.4 %', '23.3 dB', 'not measured')
    """
    if value is None:
        return NOT_MEASURED
    return attack_report.number(value, unit)


def interval(measure: Mapping[str, Any]) -> str:
    """Return a measure's 95 % interval, e.g. `12.0 % to 27.1 %`; empty where there is none."""
    if measure["low"] is None:
        return ""
    high = number(measure["high"], measure["unit"])
    return f"{number(measure['low'], measure['unit']).removesuffix(' %')} to {high}"


def baselines(measure: Mapping[str, Any]) -> str:
    """Return what no information and clean pictures give, as far as it was measured."""
    known = (("no information", "floor"), ("mean face", "mean_face"), ("clean pictures", "ceiling"))
    said = [f"{name} {number(measure[key], measure['unit'])}" for name, key in known if measure[key] is not None]
    return ", ".join(said)


def ends(measure: Mapping[str, Any]) -> str:
    """Return what no information and clean pictures give, in short: `1.0 … 98.0 %`; empty where neither is known."""
    if measure["floor"] is None and measure["ceiling"] is None:
        return ""
    low, high = ("?" if measure[key] is None else number(measure[key], measure["unit"]) for key in ("floor", "ceiling"))
    return f"{low.removesuffix(' %')} … {high}"


def epsilon(statement: Mapping[str, Any]) -> str:
    """Return a statement's epsilon with its mark of what it is worth."""
    if statement["epsilon"] is None:
        return "no guarantee"
    return f"{statement['epsilon']:.6g}" + ("" if statement["meaningful"] else " (not meaningful)")


def claim_line(statement: Mapping[str, Any]) -> str:
    """Return a statement of result.json in one short line, never its epsilon without the rest."""
    said = f"epsilon of {_UNITS.get(statement['unit'], statement['unit'])}: {epsilon(statement)}"
    if statement["epsilon"] is not None:
        said += f", {statement['relation']}, delta {statement['delta']:g}"
    return f"{said}, against anyone who sees {statement['view']}"


def leak_line(name: str, leak: Leak | None, lacking: str) -> str:
    """Return one measure of the strongest attack in one line."""
    if leak is None:
        return f"{name}: {lacking}"
    between = f" [{found}]" if (found := interval(leak.measure)) else ""
    beside = f" ({found})" if (found := baselines(leak.measure)) else ""
    return f"{name}: {number(leak.value, leak.measure['unit'])}{between}{beside} by {leak.finding['attack']}"


def leak_of(seen: Seen, name: str) -> Leak | None:
    """Return the strongest attack on one run."""
    return report_rows.strongest([(seen, finding) for finding in seen.findings], name)


def row_lines(row: Row) -> list[str]:
    """Return all numbers of a setting, a line each."""
    seeds = f"{len(row.runs)} seed{'s' * (len(row.runs) > 1)}"
    lines = [row.name, f"accuracy: {accuracy(row)} ({seeds})" + f", {GUESSING}" * row.collapsed]
    lines += [claim_line(statement) for statement in row.statements.values()]
    lines += [leak_line(name, row.leaks[name], row.lacking(name)) for name in LEAKS]
    return [*lines, f"attacks run: {', '.join(row.attacks) or 'none'}"]


def run_lines(row: Row, seen: Seen) -> list[str]:
    """Return all numbers of one run, a line each."""
    assert seen.result is not None
    final = seen.result["final"]
    lines = [f"run {seen.run.run_id}", f"{row.name}, seed {seen.values.get('seed', '')}"]
    lines.append(f"accuracy: {percent(final['accuracy'])}, equal error rate {percent(final['eer'])}")
    spreads = [("folds", "fold_sd"), ("noise draws", "draw_sd")]
    lines += [f"sd over {name}: {percent(final[key])}" for name, key in spreads if final[key] is not None]
    lines += [f"TAR at FAR {far}: {percent(value)}" for far, value in final["tar"].items() if isinstance(value, float)]
    lines += [claim_line(statement) for statement in seen.result["statements"]]
    lacking = NOT_MEASURED if seen.findings else NOT_RUN
    return lines + [leak_line(name, leak_of(seen, name), lacking) for name in LEAKS]


def ledger(seen: Seen) -> list[str]:
    """Return what a run may claim, means, assumes and leaves out: the sentences that the terminal prints."""
    assert seen.result is not None
    found = [readback.statement_of(item) for item in seen.result["statements"]]
    said = [" ".join([statements.claim(one), *summary.meant(one)]) for one in found]
    return [*said, *summary.bounds(found)]


def headline(found: Sequence[Row]) -> list[str]:
    """Return the result in a few sentences, the most important first."""
    return [_budgeted(found), *_bare(found), *_attacked(found)]


def _budgeted(found: Sequence[Row]) -> str:
    """Return what accuracy is left where something is guaranteed."""
    good = [row for row in found if row.meaningful]
    if not good:
        formal = any(one["epsilon"] is not None for row in found for one in row.statements.values())
        why = "none is proven"
        if formal:
            why = f"every epsilon is above {MEANINGFUL:g}, infinite, or at too large a delta"
        if len(found) == 1:
            return f"{_start(found[0].method)} recognises {_right(found[0])}, with no meaningful guarantee: {why}."
        return f"None of the {len(found)} settings has a meaningful guarantee: {why}."
    best = max(good, key=lambda row: row.group.mean)
    claim = min(best.meaningful, key=lambda one: one["epsilon"])
    budget = f"{_UNITS[claim['unit']]} epsilon of {claim['epsilon']:.6g} at delta {claim['delta']:g}"
    if len(good) == 1:
        return f"At {budget}, {best.method} recognises {_right(best)}."
    said = f"Of {len(good)} settings with a meaningful guarantee, the most accurate is {best.method} at {budget}"
    return f"{said}: it recognises {_right(best)}."


def _right(row: Row) -> str:
    return f"{accuracy(row)} of unseen pairs correctly" + (f", which is {GUESSING}" if row.collapsed else "")


def _start(name: str) -> str:
    return f"The run with protection {name}"


def _bare(found: Sequence[Row]) -> list[str]:
    """Return what the same recipe does for pictures that nothing protects, where it was run."""
    bare = [row for row in found if _unprotected(row)]
    if not bare or len(found) == 1:
        return []
    best = max(bare, key=lambda row: row.group.mean)
    return [f"Without any protection the same recipe reaches {accuracy(best)}."]


def _unprotected(row: Row) -> bool:
    settings, formal = row.runs[0].settings, [one["epsilon"] for one in row.statements.values()]
    return settings is not None and settings.protection.name == "none" and formal.count(None) == len(formal)


def _attacked(found: Sequence[Row]) -> list[str]:
    """Return what the strongest attacks gave, and which settings nobody attacked."""
    said = []
    every = [(row, leak) for row in found if (leak := row.leaks["linked"]) is not None]
    if linked := [pair for pair in every if not _unprotected(pair[0])] or every:
        (low, least), (high, most) = (pick(linked, key=lambda pair: pair[1].value) for pick in (min, max))
        chance = most.measure["floor"]
        floor = "" if chance is None else f"; no information at all would give {number(chance, most.measure['unit'])}"
        worst = f"{percent(most.value)} of the people behind {high.name} again in another photograph"
        more = "" if len(linked) == 1 else f", and {percent(least.value)} of those behind {low.name}, the fewest"
        said.append(f"The strongest attack that was run ({most.finding['attack']}) finds {worst}{more}{floor}.")
    if bare := [row for row in found if not row.attacks]:
        many = f"{len(bare)} of {len(found)} settings {'was' if len(bare) == 1 else 'were'} not attacked"
        who = "Nobody has attacked these runs" if len(bare) == len(found) else many
        said.append(f"{who}, so what is left to see there, beyond what is proven, is unknown.")
    return said


def verdict(row: Row) -> str:
    """Return what a row comes to: the verdict of the strongest attack, or that there was none."""
    if row.worst is not None:
        return str(row.worst.finding["verdict"])
    if row.attacks:
        return str(next(finding["verdict"] for seen in row.runs for finding in seen.findings))
    if row.meaningful:
        return "Bounded by its guarantee; not attacked."
    return "Not attacked: what it gives away is unknown."
