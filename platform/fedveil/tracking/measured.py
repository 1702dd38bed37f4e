"""Which numbers and tags MLflow is told of a run: functions of what result.json holds.

A number that changes from round to round is a series. What stays the same is told once, at step 0: a chart of equal
points shows nothing. The final evaluation, over all noise draws, stands one step after the last round, so it is what a
table shows; the rounds before it are evaluated on one draw. No guarantee is a tag and never a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedveil import readback
from fedveil.federation import claims
from fedveil.privacy import statements
from fedveil.privacy.statements import UNITS, Statement

Steps = dict[int, dict[str, float]]
"""Step -> metric -> value."""


def epsilon_name(unit: str) -> str:
    """Return the metric, and the beginning of the tags, of a unit's statement: unit, relation, delta, view are tags."""
    return f"epsilon_{unit}"


def epsilons(claimed: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the epsilon of every unit that has a guarantee: of several statements the largest; nats.

    >>> epsilons([{"unit": "image", "epsilon": 8.0}, {"unit": "image", "epsilon": None}])
    {}
    """
    found = {}
    for unit in UNITS:
        own = [claim["epsilon"] for claim in claimed if claim["unit"] == unit]
        if own and None not in own:
            found[epsilon_name(unit)] = float(max(own))
    return found


def _steady(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return what a round says that may well be what every round says."""
    return {"bytes_expected": float(entry["bytes_expected"]), **epsilons(entry["statements"])}


def of_round(entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> Steps:
    """Return what a round adds: its evaluation, and of what may be constant what differs from the round before it.

    The first of two different values is told with the second, so nothing of a constant is told.
    """
    found: dict[str, float] = {}
    if "seconds" in entry:
        found["seconds"] = entry["seconds"]
    found |= _evaluation(entry) if entry["accuracy"] is not None else {}
    steps: Steps = {int(entry["round"]): found}
    if before is not None:
        old, new = _steady(before), _steady(entry)
        changed = [name for name in new if name in old and new[name] != old[name]]
        found |= {name: new[name] for name in changed}
        steps[int(before["round"])] = {name: old[name] for name in changed}
    return {step: told for step, told in steps.items() if told}


def _evaluation(found: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: found[name] for name in ("accuracy", "eer") if found.get(name) is not None}
    rates = {f"tar_at_far_{far}": value for far, value in found.get("tar", {}).items() if isinstance(value, float)}
    return {name: float(f"{value:.9g}") for name, value in {**numbers, **rates}.items()}  # 0.665, not 0.66500000000001


def final(result: Mapping[str, Any], timed: bool) -> Steps:
    """Return the numbers of a finished run.

    Args:
        result: result.json.
        timed: durations may be told; they tell who took part, so not under a client-level claim.
    """
    rounds, evaluated = result["rounds"], result["final"]
    last = int(rounds[-1]["round"]) if rounds else 0
    after, once = _evaluation(evaluated), dict[str, float]()
    spreads = {"accuracy_fold_sd": "fold_sd", "accuracy_draw_sd": "draw_sd", "auc": "auc"}
    once |= {name: evaluated[key] for name, key in spreads.items() if evaluated[key] is not None}
    if timed and result.get("wall_seconds") is not None:
        once["wall_seconds"] = result["wall_seconds"]
    sent = {"bytes_expected": float(rounds[-1]["bytes_expected"])} if rounds else {}
    for name, value in {**sent, **epsilons(result["statements"])}.items():
        if len({_steady(entry).get(name) for entry in rounds}) < 2:
            once[name] = value
        elif name not in sent:  # it grew: the accountant of the final claims is finer than that of a round
            after[name] = value
    return {0: once, last + 1: after}


def tags(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the statement that counts of every unit, as the sentence that `fedveil ledger` prints, and its parts.

    Of several it is one without a guarantee, else the one with the largest epsilon.
    """
    found: dict[str, str] = {}
    for unit in UNITS:
        own = [readback.statement_of(claim) for claim in result["statements"] if claim["unit"] == unit]
        if not own:
            continue
        largest, _ = claims.claimed(unit, own)
        one = next(claim for claim in own if claim.epsilon == largest)
        name = epsilon_name(unit)
        found |= {name: statements.claim(one), **_parts(name, one)}
    return found


def _parts(name: str, one: Statement) -> dict[str, str]:
    delta = "none" if one.delta is None else f"{one.delta:g}"
    return {f"{name}.delta": delta, f"{name}.relation": one.relation, f"{name}.view": one.view}
