"""What a sweep cost the data owners: the composed total over its runs, from the owners' own ledger.

Trying settings is not free: every budget is another release of the same images. The ledger of the vault knows all of
them, those of failed and interrupted runs too.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedveil import checks
from fedveil.commands.sweep.sweep import Outcome
from fedveil.federation import warm_start
from fedveil.federation.federation import Federation
from fedveil.privacy import inherited, statements
from fedveil.privacy import totals as privacy_totals
from fedveil.privacy.events import NonPrivate, Synthetic
from fedveil.privacy.ledger import Ledger, Row
from fedveil.privacy.spending import History, Past, fixed_noise
from fedveil.privacy.statements import UNITS, Statement
from fedveil.privacy.totals import Deltas
from fedveil.runs import Run


@dataclasses.dataclass(frozen=True)
class Total:
    """What one data set spent over a sweep; the data set is the worst one.

    Attributes:
        subject: the owner's id of the data set.
        statement: the composed total; epsilon None where something left without a guarantee.
        formal: the composed total of what had a guarantee; None where nothing had.
        unprotected: runs that used the data set with no guarantee at all.
    """

    subject: str
    statement: Statement
    formal: Statement | None
    unprotected: int


def public_benchmark(federation: Federation) -> bool:
    """Return whether the people trained on are public anyway; a data source that does not load is taken as private."""
    try:
        return federation.split.public_benchmark
    except (checks.UserError, OSError):
        return False


def totals(outcomes: Sequence[Outcome]) -> tuple[list[Total], bool]:
    """Return the worst data set's total per unit over all runs of a sweep, and whether all people are public anyway.

    Derived as an owner's totals are (`privacy.totals`), from the rows of this sweep's runs: by plain composition, which
    holds for a grid that was fixed before its first run. A copy that was drawn before the sweep and read again in it
    counts once. Runs on public people spend nothing.
    """
    public: dict[str, bool] = {}
    private: dict[Path, set[str]] = collections.defaultdict(set)
    starts: dict[str, NonPrivate] = {}
    deltas = Deltas()
    for outcome in outcomes:
        settings = outcome.cell.settings
        data = repr(settings.data)
        deltas = Deltas(settings.policy.image_delta, settings.policy.client_delta)
        if data not in public:
            public[data] = public_benchmark(outcome.cell.federation)
        if not public[data]:
            private[Path(settings.vault.root) / "ledger.sqlite"].add(outcome.run_id)
            leak = warm_start.leak(settings) or _shared(Path(settings.runs.root), outcome.run_id)
            starts |= {outcome.run_id: leak} if leak is not None else {}
    found = []
    for path, run_ids in private.items():
        ledger = Ledger(path)
        found += of_rows(ledger.rows(), run_ids, deltas, ledger.contents(), ledger.draws(), starts)
    return worst(found), not private


def _shared(root: Path, run_id: str) -> NonPrivate | None:
    """Return the event of synthetic faces in a run whose generator guarantees nothing; None where there are none."""
    rows = Ledger(Run(root, run_id).ledger).rows(run_id)
    leaks = (inherited.leak(row.event) for row in rows if isinstance(row.event, Synthetic))
    return next((leak for leak in leaks if leak is not None), None)


def of_rows(
    rows: Sequence[Row],
    run_ids: set[str],
    deltas: Deltas,
    contents: Mapping[str, set[bytes]] | None = None,
    copies: Mapping[bytes, Mapping[str, int]] | None = None,
    starts: Mapping[str, NonPrivate] | None = None,
) -> list[Total]:
    """Return the totals of every data set and unit over `run_ids`.

    Args:
        rows: all rows of an owner's ledger.
        run_ids: the sweep's runs.
        deltas: at which totals stand.
        contents: data set -> its pictures, as far as the ledger knows them.
        copies: `Book.draws` of the pictures.
        starts: run -> the start, or synthetic faces, without a guarantee; owners are not told where a backbone starts.
    """
    mine = [dataclasses.replace(row, status="spent") if row.status == "reused" else row
            for row in rows if row.run_id in run_ids]  # fmt: skip
    begun = dict.fromkeys((row.run_id, row.subject) for row in mine if row.run_id in (starts or {}))
    mine += [Row(run_id, subject, "spent", (starts or {})[run_id]) for run_id, subject in begun]
    known = contents or {}
    past, found = Past(mine, known.keys(), deltas.image), []
    holders: dict[bytes, set[str]] = collections.defaultdict(set)
    for name, pictures in known.items():
        for picture in pictures:
            holders[picture].add(name)
    for name in past.names():
        held = {picture: frozenset(holders[picture]) for picture in known.get(name, ())}
        found += _of(name, past.history(name, held, copies), deltas)
    return found


def _of(name: str, history: History, deltas: Deltas) -> list[Total]:
    claims = privacy_totals.of_history(history, deltas)
    bare: dict[str, set[str]] = collections.defaultdict(set)
    for row in history.rows():
        if isinstance(row.event, NonPrivate) or fixed_noise(row):
            bare[str(getattr(row.event, "unit", "image"))].add(row.run_id)
    bare["client"].update(privacy_totals.bare_runs(history))
    found = []
    for unit in UNITS:
        own = [claim for claim in claims if claim.unit == unit]
        formal = next((claim for claim in own if claim.epsilon is not None), None)
        none = next((claim for claim in own if claim.epsilon is None), None)
        if (shown := none or formal) is not None:
            found.append(Total(name, shown, formal, len(bare[unit])))
    return found


def worst(found: Iterable[Total]) -> list[Total]:
    """Return the largest total of each unit: disjoint data sets do not add."""
    largest: dict[str, Total] = {}
    for total in found:
        known = largest.get(total.statement.unit)
        if known is None or _size(total) > _size(known):
            largest[total.statement.unit] = total
    return [*largest.values()]


def _size(total: Total) -> tuple[int, float]:
    formal = total.formal.epsilon if total.formal is not None else None
    return total.unprotected, formal or 0.0


def sentences(found: Sequence[Total], all_public: bool, fixed: bool) -> list[str]:
    """Return what the sweep cost the owners, in words.

    Args:
        found: the worst totals.
        all_public: nothing private was used.
        fixed: the grid was fixed before its first run (`Sweep.fixed`). Where it was not, whoever added values may have
            seen results, and only sums of pure losses hold then.
    """
    if all_public:
        return ["owners' total over the sweep: public benchmark (public or drawn faces; nothing private was spent)"]
    if not found:
        return ["owners' total over the sweep: the owners' ledger holds no release of these runs"]
    lines = []
    for total in found:
        text = statements.claim(total.statement)
        if total.formal is not None:
            why = "the grid was fixed before its first run" if fixed else "if no value was added after seeing a result"
            rest = total.formal.mechanism if total.formal.delta == 0 else f"{total.formal.mechanism}; {why}"
            text = f"{statements.claim(total.formal)} ({rest})"
        if total.unprotected:
            also = f"; the protected releases alone: {text}" if total.formal is not None else ""
            text = f"infinite: {total.unprotected} runs used it without any guarantee{also}"
        lines.append(f"owners' total over the sweep, worst data set {total.subject}: {text}")
    return lines


def to_dicts(found: Sequence[Total]) -> list[Mapping[str, object]]:
    """Return plain JSON types; an infinite total is null."""
    return [
        {
            "subject": total.subject,
            "unprotected": total.unprotected,
            "statement": total.statement.to_dict(),
            "formal": total.formal.to_dict() if total.formal is not None else None,
        }
        for total in found
    ]
