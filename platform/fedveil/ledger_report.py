"""Ledgers for people who are no experts: sentences, a table, JSON. A run's claims, or what an owner has spent."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedveil import checks, config, planning, report, runs
from fedveil.privacy import statements
from fedveil.privacy.accounting.pld import FINAL_GRID, PldAccountant
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import LocalRelease, NonPrivate, Relation, Release
from fedveil.privacy.ledger import Ledger, Row, by_source
from fedveil.privacy.statements import Statement
from fedveil.schema import Config

_OWNER_ASSUMPTIONS = ("the server adds the noise, keeps it and the coins secret, and forgets both",)


def of_run(root: Path, run_id: str) -> dict[str, Any]:
    """Return what a run may claim, derived anew from its ledger, with the ledger's rows counted.

    Raises:
        fedveil.checks.UserError: no such run, or a ledger whose chain does not hold.
    """
    run = runs.open_run(root, run_id)
    ledger = Ledger(run.ledger)
    head = ledger.head()
    settings = config.from_json(run.config.read_text())
    found = claims(ledger.rows(run_id), settings)
    return {
        "run_id": run_id,
        "head": head,
        "rows": _counted(ledger.rows(run_id)),
        "statements": [statement.to_dict() for statement in found],
    }


def claims(rows: Sequence[Row], settings: Config) -> list[Statement]:
    """Return the statements that a run's rows support; equal releases compose."""
    found: list[Statement] = []
    if any("NOT PRIVATE" in row.note for row in rows):
        fixed = "NOT PRIVATE, the noise was fixed (privacy.test_seed)"
        return statements.price(NonPrivate("image", "anything this run released", fixed))
    spent = collections.Counter(row.event for row in rows if row.status == "spent")
    accountant = PldAccountant(planning.relation_of(settings), "client", grid=FINAL_GRID)
    client = [(event, count) for event, count in spent.items() if isinstance(event, Release)]
    if client and settings.privacy.client is not None:
        for event, count in client:
            accountant = accountant.compose(event, count)
        delta = settings.privacy.client.delta or 0.0
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
    were chosen. Client-level schedules are composed by Renyi divergences, whose sum stays valid when budgets are chosen
    after seeing results (Feldman and Zrnic, NeurIPS 2021).

    Raises:
        fedveil.checks.UserError: an unknown data set, with the nearest; or a broken chain.
    """
    ledger = Ledger(root / "ledger.sqlite")
    head = ledger.head()
    everything = ledger.rows()
    rows = [row for row in everything if row.subject == data_set] or by_source(everything, _weight).get(data_set, [])
    if not rows:
        known = sorted({row.subject for row in everything} | set(by_source(everything, _weight)))
        raise checks.UserError(f"No data set {data_set!r} in {ledger.path}.{checks.nearest(data_set, known)}")
    return {
        "data_set": data_set,
        "head": head,
        "rows": _counted(rows),
        "statements": [statement.to_dict() for statement in owner_claims(rows)],
    }


def _weight(rows: Sequence[Row]) -> float:
    """Return what orders the clients of a deal: the sum of their pure epsilons."""
    return sum(statement.epsilon or 0.0 for statement in owner_claims(rows) if statement.unit == "image")


def owner_claims(rows: Sequence[Row]) -> list[Statement]:
    """Return the composed totals of one data set over all its runs."""
    found: list[Statement] = []
    if any("NOT PRIVATE" in row.note for row in rows):
        fixed = "NOT PRIVATE, the noise of at least one run was fixed (privacy.test_seed)"
        found += statements.price(NonPrivate("image", "anything those runs released", fixed))
        rows = [row for row in rows if "NOT PRIVATE" not in row.note]
    # Every row "spent" is draws of its own, even where two events look equal.
    local = [row.event for row in rows if row.status == "spent" and isinstance(row.event, LocalRelease)]
    if local:
        priced = [statements.price(event)[0] for event in local]
        epsilon, delta = sum(s.epsilon or 0.0 for s in priced), sum(s.delta or 0.0 for s in priced)
        found.append(statements.composed(priced, epsilon, delta, f"sum over {len(priced)} releases of one image"))
    reserved = [row for row in rows if row.status == "reserved" and isinstance(row.event, Release)]
    relations: tuple[Relation, ...] = ("zero-out", "replace-one")
    for relation in relations:
        accountant = RdpAccountant(relation, "client")
        chosen = [row.event for row in reserved if isinstance(row.event, Release) and row.event.relation == relation]
        for event in chosen:
            accountant = accountant.compose(event)
        if chosen:
            delta = max(float(dict(event.detail).get("delta", 1e-5)) for event in chosen)
            bound = accountant.epsilon(delta)
            found.append(_client(bound.upper, delta, relation, f"{len(chosen)} reserved schedules ({bound.method})"))
    for none in {row.event for row in rows if isinstance(row.event, NonPrivate)}:
        found += statements.price(none)
    return found


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
    lines += ["", report.ledger([report.statement_of(item) for item in found["statements"]]), ""]
    lines.append(f"head {found['head']}")
    lines.append("Keep the head elsewhere: a ledger that was cut or replaced no longer contains it.")
    return "\n".join(lines)
