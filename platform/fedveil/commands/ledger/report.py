"""Ledgers for people who are no experts: sentences, a table, JSON. A run's claims, or what an owner has spent."""

from __future__ import annotations

import collections
import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedveil import checks, readback, runs
from fedveil.commands import summary
from fedveil.federation import planning
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.accounting import filters
from fedveil.privacy.accounting.pld import FINAL_GRID, PldAccountant
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import LocalRelease, NonPrivate, Release
from fedveil.privacy.ledger import GENESIS, Ledger, Row, by_source, deal_of
from fedveil.privacy.spending import History, Past, draws, fixed_noise, image_epsilon, image_parts, reserved
from fedveil.privacy.statements import Statement

_OWNER_ASSUMPTIONS = ("the server adds the noise, keeps it and the coins secret, and forgets both",)
_NOT_ADAPTIVE = (
    "no schedule was chosen after seeing what an earlier one released, or the owner's policy limits the total"
)


def of_run(root: Path, run_id: str) -> dict[str, Any]:
    """Return what a run may claim, derived anew from its ledger, with the ledger's rows counted.

    Raises:
        fedveil.checks.UserError: no such run, a damaged file of it, or a ledger that was edited or cut.
    """
    run = runs.open_run(root, run_id)
    ledger = Ledger(run.ledger)
    head = ledger.head()
    ledger.check_holds(str(readback.checkpoint_of(run)[1].get("ledger_head", GENESIS)))
    federation = Federation(readback.settings_of(run))
    found = claims(ledger.rows(run_id), federation)
    return {
        "run_id": run_id,
        "head": head,
        "rows": _counted(ledger.rows(run_id)),
        "statements": [statement.to_dict() for statement in found],
    }


def claims(rows: Sequence[Row], federation: Federation) -> list[Statement]:
    """Return the statements that a run's rows support; equal releases compose."""
    found: list[Statement] = []
    if any("NOT PRIVATE" in row.note for row in rows):
        fixed = "NOT PRIVATE, the noise was fixed (privacy.test_seed)"
        return statements.price(NonPrivate("image", "anything this run released", fixed))
    spent = collections.Counter(row.event for row in rows if row.status == "spent")
    accountant = PldAccountant(federation.relation, "client", grid=FINAL_GRID)
    client = [(event, count) for event, count in spent.items() if isinstance(event, Release)]
    budget = federation.settings.privacy.client
    if client and budget is not None:
        for event, count in client:
            accountant = accountant.compose(event, count)
        delta = budget.delta or 0.0
        bound = accountant.epsilon(delta)
        rounds = sum(count for _, count in client)
        found.append(_client(bound.upper, delta, accountant.relation, f"{rounds} noisy rounds ({bound.method})"))
    leaks = [event for event in spent if isinstance(event, NonPrivate) and event.view == "the released model"]
    if leaks:
        found = [statements.void(statement, leaks[0].reason) for statement in found]
    for other, count in spent.items():
        if isinstance(other, LocalRelease):
            found += statements.price(statements.repeated(other, count if other.releases > 1 else 1))
        elif isinstance(other, NonPrivate):
            found += statements.price(other)
    return found


def of_owner(root: Path, data_set: str) -> dict[str, Any]:
    """Return what the owner of a data set has spent over all runs, from the vault's ledger.

    Local releases of one image add up over distinct mechanisms: pure losses by their sum, which holds however the runs
    were chosen. Client-level schedules are composed by Renyi divergences. What other data sets spent on the same
    pictures is included (`privacy.spending`).

    Raises:
        fedveil.checks.UserError: an unknown data set, with the nearest; or a broken chain.
    """
    ledger = Ledger(root / "ledger.sqlite")
    head, content_head = ledger.head(), ledger.content_head()
    history, own = past_of(ledger, data_set)
    return {
        "data_set": data_set,
        "head": head,
        "content_head": content_head,
        "rows": _counted(own),
        "includes": _included(ledger, history, data_set),
        "statements": [statement.to_dict() for statement in history_claims(history)],
    }


def past_of(ledger: Ledger, data_set: str) -> tuple[History, list[Row]]:
    """Return what concerns a data set, or all deals of a source, and its own rows.

    Raises:
        fedveil.checks.UserError: an unknown data set, with the nearest.
    """
    rows, contents = ledger.rows(), ledger.contents()
    own = [row for row in rows if row.subject == data_set] or by_source(rows, image_epsilon).get(data_set, [])
    if not own:
        known = sorted({row.subject for row in rows} | set(by_source(rows, image_epsilon)))
        raise checks.UserError(f"No data set {data_set!r} in {ledger.path}.{checks.nearest(data_set, known)}")
    names = [name for name in contents if data_set in (name, deal_of(name)[0])]
    holders: dict[bytes, set[str]] = {picture: set() for name in names for picture in contents[name]}
    for name, pictures in contents.items():
        for picture in pictures & holders.keys():
            holders[picture].add(name)
    frozen = {picture: frozenset(found) for picture, found in holders.items()}
    return Past(rows, contents.keys()).history(data_set, frozen), own


def _included(ledger: Ledger, history: History, data_set: str) -> list[dict[str, Any]]:
    """Return which other data sets' rows count, and why; the deals of one source stand together."""
    counted = collections.Counter(row.subject for row in ledger.rows())
    source = deal_of(data_set)[0]
    found: list[dict[str, Any]] = [
        {"data_set": name, "rows": counted[name], "pictures": count}
        for name, count in sorted(history.shared.items())
        if deal_of(name)[0] != source and counted[name]
    ]
    concerned = [*(row for rows in history.pictures for row in rows), *(row for row, _ in history.schedules)]
    dealt = {row for row in concerned if row.subject != data_set and deal_of(row.subject)[0] == source != data_set}
    if dealt:
        found.append({"data_set": source, "rows": len(dealt), "pictures": None})
    return found


def owner_claims(rows: Sequence[Row]) -> list[Statement]:
    """Return the composed totals of rows that all concern one data set."""
    return history_claims(History((tuple(rows),), tuple((row, 1) for row in reserved(rows)), {}))


def history_claims(history: History) -> list[Statement]:
    """Return the composed totals of one data set over all its runs."""
    found: list[Statement] = []
    rows = [row for rows in history.pictures for row in rows] + [row for row, _ in history.schedules]
    if any(fixed_noise(row) for row in rows):
        fixed = "NOT PRIVATE, the noise of at least one run was fixed (privacy.test_seed)"
        found += statements.price(NonPrivate("image", "anything those runs released", fixed))
    priced = image_parts(worst_formal(history))
    if priced:
        epsilon, delta = sum(s.epsilon or 0.0 for s in priced), sum(s.delta or 0.0 for s in priced)
        found.append(statements.composed(priced, epsilon, delta, f"sum over {len(priced)} releases of one image"))
    chosen = client_schedules(history)
    if chosen:
        relation, delta = filters.relation_of(chosen), client_delta(history)
        accountant = RdpAccountant(relation, "client")
        for event, count in collections.Counter(chosen).items():
            accountant = accountant.compose(event, count)
        bound = accountant.epsilon(delta)
        claim = _client(bound.upper, delta, relation, f"{len(chosen)} reserved schedules ({bound.method})")
        if len(chosen) > 1:
            claim = dataclasses.replace(claim, assumptions=(*claim.assumptions, _NOT_ADAPTIVE))
        found.append(claim)
    for none in dict.fromkeys(row.event for row in rows if isinstance(row.event, NonPrivate)):
        found += statements.price(none)
    return found


def worst_formal(history: History) -> list[Row]:
    """Return the draws of the picture whose formal releases add up to most, fixed noise left out."""

    def formal(rows: Sequence[Row]) -> list[Row]:
        return draws(row for row in rows if not fixed_noise(row))

    return max((formal(rows) for rows in history.pictures), key=image_epsilon)


def client_schedules(history: History) -> list[Release]:
    """Return the schedules with a guarantee, in the order of the ledger, as events of one client."""
    kept = dataclasses.replace(history, schedules=tuple(e for e in history.schedules if not fixed_noise(e[0])))
    return [event for event in kept.client_events() if isinstance(event, Release)]


def client_delta(history: History) -> float:
    """Return the delta at which the schedules are stated together: the largest of theirs."""
    return max(float(dict(event.detail).get("delta", 1e-5)) for event in client_schedules(history))


def _client(epsilon: float | None, delta: float, relation: str, mechanism: str) -> Statement:
    return Statement(
        unit="client",
        relation=relation,
        view=planning.VIEW,
        mechanism=mechanism,
        epsilon=epsilon,
        delta=delta if epsilon is not None else None,
        guarantee="formal" if epsilon is not None else "none",
        meaningful=epsilon is not None and epsilon <= statements.MEANINGFUL,
        assumptions=_OWNER_ASSUMPTIONS,
        not_covered=("the server itself", "the operator's log", "floating-point effects of the noise"),
    )


def _counted(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one entry per run, status and kind of release, with how many rows it stands for."""
    counted = collections.Counter((row.run_id, row.status, type(row.event).__name__, row.note) for row in rows)
    return [
        {"run_id": run_id, "status": status, "event": kind, "rows": count, "note": note}
        for (run_id, status, kind, note), count in counted.items()
    ]


def text(found: dict[str, Any]) -> str:
    """Return the ledger at 80 columns: rows, sentences, the head to keep elsewhere."""
    title = f"run {found['run_id']}" if "run_id" in found else f"data set {found['data_set']}"
    lines = [f"ledger of {title}", "", f"{'run':<44}{'status':<10}{'release':<16}{'rows':>6}"]
    for entry in found["rows"]:
        lines.append(f"{entry['run_id']:<44}{entry['status']:<10}{entry['event']:<16}{entry['rows']:>6}")
        if entry["note"]:
            lines.append(f"  {entry['note']}")
    for other in found.get("includes", ()):
        many, pictures = other["rows"], other["pictures"]
        why = "where the same pictures were dealt anew"
        if pictures is not None:
            why = f"which shares {pictures} picture{'s' * (pictures != 1)}"
        lines.append(textwrap.fill(f"includes {many} row{'s' * (many != 1)} of {other['data_set']!r}, {why}", 80))
    lines += ["", summary.ledger([readback.statement_of(item) for item in found["statements"]]), ""]
    lines.append(f"head {found['head']}")
    if "content_head" in found:
        lines.append(f"head of the pictures {found['content_head']}")
    lines.append("Keep the head elsewhere: a ledger that was cut or replaced no longer contains it.")
    return "\n".join(lines)
