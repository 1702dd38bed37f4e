"""From trials to what a finding reports: rates, intervals, the empirical epsilon beside the proven one, and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil.attacks import _membership_rates as rates
from fedveil.attacks._membership_people import FEWEST, Asked
from fedveil.attacks._membership_trials import RULES, Table
from fedveil.attacks.base import Measure
from fedveil.federation import claims
from fedveil.privacy import audit
from fedveil.privacy.audit import Counts
from fedveil.privacy.statements import Statement

_DELTA = 1e-5  # of an empirical epsilon where the run claims none
_THOUSAND = 1000  # trials without which a false positive rate of 0.001 cannot be told
_OTHERS = "pictures of strangers, because members have no spare ones"
_FLOORS = {"auc": 0.5, "advantage": 0.0, "tpr_at_fpr_0.01": 0.01, "tpr_at_fpr_0.001": 0.001, "epsilon_lower": 0.0}
Statistic = Callable[[NDArray[np.float64] | None], NDArray[np.float64]]
UNITS = ("image", "identity", "client")
_SAID = {
    "image": "a picture that trained against one that did not",
    "identity": "a person who trained against a stranger",
    "client": "a client that trained against as many strangers",
    "vault": "a picture, for whoever holds the clients' vaults and so knows class centres",
}


@dataclasses.dataclass(frozen=True)
class Bound:
    """What is proven for a unit: epsilon, or None with the reason, at a delta."""

    epsilon: float | None
    delta: float
    said: str


def bound(unit: str, proven: Sequence[Statement], asked: Asked) -> Bound:
    """Return what stands beside the empirical epsilon of a unit; nothing where the two would not be of one thing."""
    if unit == "vault":
        return Bound(None, _DELTA, "no statement speaks of what stays in a vault")
    if unit == "image" and not asked.spare:
        return Bound(None, _DELTA, f"beside no statement: compared with {_OTHERS}")
    epsilon, why = claims.claimed(unit, proven)
    delta = max((one.delta or 0.0 for one in proven if one.unit == unit and one.epsilon is not None), default=_DELTA)
    said = f"no guarantee ({why})" if epsilon is None else f"proven: {epsilon:.3g} at delta {delta:g}"
    return Bound(epsilon, delta, said)


def measured(
    unit: str, rules: Table, proven: Bound, rng: np.random.Generator, repeats: int
) -> tuple[list[Measure], dict[str, Any]]:
    """Return the measures of one unit and its curve: the strongest rule and signal of a third, on the other people.

    Args:
        unit: image, identity, client or vault.
        rules: its trials.
        proven: what is proven for it.
        rng: of the resamples.
        repeats: resamples of people.
    """
    what = _SAID[unit]
    able = {
        (rule, signal): parts
        for rule, by_signal in rules.items()
        for signal, one in by_signal.items()
        if _enough(parts := one.finite().parted())
    }
    if not able:
        few = f"{what}: fewer than {FEWEST} on one side"
        return [_measure(f"{unit}_{name}", None, _FLOORS[name], few) for name in ("auc", "epsilon_lower")], {}
    strength = {key: float(rates.auc(parts[0])[0]) for key, parts in able.items()}

    def strongest(keys: Iterable[tuple[str, str]]) -> tuple[str, str]:
        return max(keys, key=lambda key: (strength[key], RULES.index(key[0])))

    best = strongest(able)
    pilot, test = able[best]
    clause = f"{what}, by {best[0]} on {best[1]}"
    weights = rates.resamples(test, rng, repeats)
    threshold = rates.best_threshold(pilot)
    found = [
        _with_interval(f"{unit}_auc", lambda w: rates.auc(test, w), weights, clause),
        _with_interval(f"{unit}_advantage", lambda w: rates.advantage(test, threshold, w), weights, clause),
        _with_interval(f"{unit}_tpr_at_fpr_0.01", lambda w: rates.tpr_at(test, 0.01, w), weights, clause),
        _epsilon(unit, test, proven),
    ]
    if int((~test.present).sum()) >= _THOUSAND:
        name = f"{unit}_tpr_at_fpr_0.001"
        found.append(_with_interval(name, lambda w: rates.tpr_at(test, 0.001, w), weights, clause))
    for rule in dict.fromkeys(key[0] for key in able) if len(rules) > 1 else ():
        key = strongest(key for key in able if key[0] == rule)
        found.append(_area(f"{unit}_{rule}_auc", able[key][1], rng, repeats, f"{what}, by {rule} on {key[1]}"))
    x, y = rates.roc(test)
    return found, {unit: {"x": x, "y": y, "x_name": "false positive rate", "y_name": "true positive rate"}}


def _area(name: str, test: rates.Trials, rng: np.random.Generator, repeats: int, said: str) -> Measure:
    return _with_interval(name, lambda w: rates.auc(test, w), rates.resamples(test, rng, repeats), said)


def _enough(parts: tuple[rates.Trials, rates.Trials]) -> bool:
    """Return whether both sides have enough people, a fair share of them among those that choose."""
    counts = [
        [np.unique(one.person[side]).size for side in (one.present, ~one.present)] for one in parts
    ]  # fmt: skip
    return min(map(sum, zip(*counts, strict=True))) >= FEWEST and min(map(min, counts)) >= FEWEST // (2 * rates.PILOT)


def _epsilon(unit: str, test: rates.Trials, proven: Bound) -> Measure:
    """Return the lower limit on epsilon at the run's delta: the threshold of one half of the people, on the other."""

    def limit(counts: Counts) -> Any:
        return audit.clopper_pearson(counts, proven.delta)

    lower, counts = audit.by_halves(test.one_each().sides(), limit)
    most = limit(Counts(counts.present, counts.present, 0, counts.absent))
    said = (
        f"lower limit at confidence 0.95 from {counts.present} who trained and {counts.absent} who did not, which "
        f"cannot show more than {most:.2f}; {proven.said}"
    )
    if proven.epsilon is not None and lower > proven.epsilon:
        said += "; it is ABOVE what is proven: report it as a fault"
    return dataclasses.replace(_measure(f"{unit}_epsilon_lower", lower, 0.0, said), unit="nats")


def _measure(name: str, value: float | None, floor: float, said: str) -> Measure:
    unit = "" if name.endswith("_advantage") else "share"  # a difference of two rates may be negative
    return Measure(name, value, said, unit, floor=floor)


def _with_interval(name: str, statistic: Statistic, weights: Sequence[NDArray[np.float64]], said: str) -> Measure:
    values = np.concatenate([statistic(some) for some in weights])
    low, high = np.nanquantile(values, [0.025, 0.975])
    floor = next(floor for kind, floor in _FLOORS.items() if name.endswith(kind))
    return dataclasses.replace(_measure(name, float(statistic(None)[0]), floor, said), low=float(low), high=float(high))


def notes(asked: Asked, count: int) -> list[str]:
    """Return what to know before quoting a number of `count` reference models."""
    found = [
        "Score, signal and threshold are chosen on a third of the people and measured on the others; intervals "
        "resample people. People of one run are taken for independent trials of the empirical epsilon.",
        "An epsilon of 0 means that this attack learnt nothing, not that nothing can be learnt.",
        f"A false positive rate of 0.001 is told where {_THOUSAND} or more did not train.",
    ]
    if not asked.spare:
        found.append(
            f"A picture that trained is compared with {_OTHERS}: at image level this is no more than identity's."
        )
    if count:
        found.append(
            f"{count} reference models were trained by the run's own configuration on other people; whoever trains "
            "them knows all people who are not asked about."
        )
    else:
        found.append("Without reference models (attack.references) there is neither RMIA nor LiRA.")
    return found


_WIDER = 2.394 / 1.960  # three units are looked at: each interval covers 1 - 0.05 / 3 instead of 95 % (Bonferroni)


def _above_guessing(value: float, low: float | None) -> bool:
    """Return whether an area is above one half for certain, although the best of several units is looked at.

    >>> _above_guessing(0.68, 0.61), _above_guessing(0.564, 0.505)
    (True, False)
    """
    return low is not None and value - _WIDER * (value - low) > 0.5


def verdict(measures: Sequence[Measure]) -> str:
    """Return one sentence on the strongest unit that whoever has the released model can tell."""
    above = [
        (one, unit)
        for one in measures for unit in UNITS
        if one.name == f"{unit}_auc" and one.value is not None and _above_guessing(one.value, one.low)
    ]  # fmt: skip
    if not above:
        return "Nobody who trained was told from others better than by guessing; a stronger attack may."
    worst, unit = max(above, key=lambda pair: pair[0].value or 0.0)
    return (
        f"Membership leaks: {_SAID[unit]} is told with AUC {worst.value:.2f} ({worst.low:.2f} to {worst.high:.2f}; "
        "guessing: 0.50)."
    )
