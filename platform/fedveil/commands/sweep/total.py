"""What a sweep cost the data owners: the composed total over its runs, from the owners' own ledger.

Trying settings is not free: every budget is another release of the same images. The ledger of the vault knows all of
them, those of failed and interrupted runs too.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedveil import checks
from fedveil.commands.sweep.sweep import Outcome
from fedveil.federation.federation import Federation
from fedveil.privacy import events, gaussian, statements
from fedveil.privacy.events import Event, LocalRelease, NonPrivate
from fedveil.privacy.ledger import Ledger, Row, by_source


@dataclasses.dataclass(frozen=True)
class Total:
    """An upper bound on what one data set spent over a sweep; the data set is the worst one.

    Attributes:
        unit: image, identity or client.
        subject: the owner's id of the data set.
        releases: how many releases compose.
        epsilon: their total by basic composition.
        delta: the total delta.
        unprotected: runs that used the data set with no guarantee at all; above 0 the true total is infinite.
    """

    unit: str
    subject: str
    releases: int
    epsilon: float
    delta: float
    unprotected: int


def public_benchmark(federation: Federation) -> bool:
    """Return whether the people trained on are public anyway; a data source that does not load is taken as private."""
    try:
        return federation.split.public_benchmark
    except (checks.UserError, OSError):
        return False


def totals(outcomes: Sequence[Outcome]) -> tuple[list[Total], bool]:
    """Return the worst data set's total per unit over all runs of a sweep, and whether all people are public anyway.

    Guarantee: pure epsilons add, Gaussian releases compose exactly and are stated at their delta, and both sums are
    valid although later runs were chosen knowing earlier results. A copy that was drawn before the sweep and read again
    in it counts once. Runs on public people spend nothing.
    """
    public: dict[str, bool] = {}
    private: dict[Path, set[str]] = collections.defaultdict(set)
    for outcome in outcomes:
        settings = outcome.cell.settings
        data = repr(settings.data)
        if data not in public:
            public[data] = public_benchmark(outcome.cell.federation)
        if not public[data]:
            private[Path(settings.vault.root) / "ledger.sqlite"].add(outcome.run_id)
    found = [total for path, run_ids in private.items() for total in of_rows(Ledger(path).rows(), run_ids)]
    return worst(found), not private


def of_rows(rows: Iterable[Row], run_ids: set[str]) -> list[Total]:
    """Return the totals of every data set and unit over `run_ids`, from all rows of an owner's ledger."""

    def spent(mine: Sequence[Row]) -> float:
        return sum(total.epsilon + (math.inf if total.unprotected else 0) for total in _subject("", mine, run_ids))

    merged = by_source(rows, spent)
    return [total for subject, mine in merged.items() for total in _subject(subject, mine, run_ids)]


def _subject(subject: str, rows: Sequence[Row], run_ids: set[str]) -> list[Total]:
    """Return one data set's totals, a unit each."""
    bare: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        if row.run_id in run_ids and (isinstance(row.event, NonPrivate) or row.note.startswith("NOT PRIVATE")):
            bare[_unit(row.event)].add(row.run_id)
    releases = [(event, count) for event, count in _counted(rows, run_ids) if not isinstance(event, NonPrivate)]
    found = []
    for unit in sorted({*bare, *(_unit(event) for event, _ in releases)}):
        mine = [(event, count) for event, count in releases if _unit(event) == unit]
        epsilon, delta = composed(mine)
        found.append(Total(unit, subject, sum(count for _, count in mine), epsilon, delta, len(bare[unit])))
    return found


def _unit(event: Event) -> str:
    return str(getattr(event, "unit", "image"))  # a local release is of an image


def _counted(rows: Sequence[Row], run_ids: set[str]) -> list[tuple[Event, int]]:
    """Return each event of one data set with the number of releases that the sweep saw.

    A row "spent" is a release of its own, even where events look equal: another seed may have learnt another mechanism.
    A row "reused" reads one that was spent in the sweep, or in one of the runs outside it.
    """
    same: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        same[events.digest(row.event)].append(row)
    counted = []
    for equal in same.values():
        spent = sum(row.status != "reused" and row.run_id in run_ids for row in equal)
        outside = sum(row.status != "reused" and row.run_id not in run_ids for row in equal)
        reused = sum(row.status == "reused" and row.run_id in run_ids for row in equal)
        counted.append((equal[0].event, spent + min(reused, outside)))
    return [(event, count) for event, count in counted if count]


def composed(releases: Sequence[tuple[Event, int]]) -> tuple[float, float]:
    """Return (epsilon, delta) of releases of one unit, each `count` times; infinite where one cannot be priced.

    >>> composed([(LocalRelease("laplace", 8.0), 2), (LocalRelease("laplace", 50.0), 1)])
    (66.0, 0.0)
    """
    local = [(event, count) for event, count in releases if isinstance(event, LocalRelease)]
    epsilon, delta = _images(local)
    for event, count in releases:
        if isinstance(event, LocalRelease):
            continue
        try:
            mine = [statement for statement in statements.price(event) if statement.unit == _unit(event)]
        except checks.UserError:  # priced by an accountant, not here
            return math.inf, delta
        epsilon += count * max((math.inf if s.epsilon is None else s.epsilon for s in mine), default=0.0)
        delta += count * max((s.delta or 0.0 for s in mine), default=0.0)
    return epsilon, delta


def _images(releases: Sequence[tuple[LocalRelease, int]]) -> tuple[float, float]:
    """Compose local releases of any one image: diameters add (Laplace), their squares add (Gaussian)."""
    epsilon = sum(event.diameter * event.releases * count for event, count in releases if event.mechanism == "laplace")
    gauss = [(event, count) for event, count in releases if event.mechanism == "gaussian"]
    if not gauss:
        return epsilon, 0.0
    delta = max(event.delta for event, _ in gauss)
    mu = math.sqrt(sum(event.diameter**2 * event.releases * count for event, count in gauss))
    return epsilon + gaussian.epsilon_of(mu, delta), delta


def worst(found: Iterable[Total]) -> list[Total]:
    """Return the largest total of each unit: disjoint data sets do not add."""
    largest: dict[str, Total] = {}
    for total in found:
        known = largest.get(total.unit)
        if known is None or (total.unprotected, total.epsilon) > (known.unprotected, known.epsilon):
            largest[total.unit] = total
    return [*largest.values()]


def sentences(found: Sequence[Total], all_public: bool) -> list[str]:
    """Return what the sweep cost the owners, in words."""
    if all_public:
        return ["owners' total over the sweep: public benchmark (public or drawn faces; nothing private was spent)"]
    if not found:
        return ["owners' total over the sweep: the owners' ledger holds no release of these runs"]
    lines = []
    for total in found:
        bound = f"epsilon <= {total.epsilon:.6g} at delta = {total.delta:g} over {total.releases} releases"
        if math.isinf(total.epsilon):
            bound = f"no closed bound over {total.releases} releases"
        composed = f"{bound} (basic composition, replace-one, any one {total.unit})"
        if total.unprotected:
            rest = f"; the protected releases alone: {composed}" if total.releases else ""
            text = f"infinite: {total.unprotected} runs used it without any guarantee{rest}"
        else:
            text = composed
        lines.append(f"owners' total over the sweep, {total.unit} level, worst data set {total.subject}: {text}")
    return lines


def to_dicts(found: Sequence[Total]) -> list[Mapping[str, object]]:
    """Return plain JSON types; an infinite total is null."""
    bounds = [None if total.unprotected or math.isinf(total.epsilon) else total.epsilon for total in found]
    return [{**dataclasses.asdict(total), "epsilon": bound} for total, bound in zip(found, bounds, strict=True)]
