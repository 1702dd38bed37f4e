"""Ledgers for people who are no experts: sentences, a table, JSON. A run's claims, or what an owner has spent."""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedveil import checks, readback, runs
from fedveil.commands import summary
from fedveil.configuration.schema import Policy
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy import totals
from fedveil.privacy.ledger import Ledger, Row, deal_of, everybody_of
from fedveil.privacy.spending import History, Past
from fedveil.privacy.totals import Deltas


def of_run(root: Path, run_id: str) -> dict[str, Any]:
    """Return what a run may claim, derived anew from its ledger, with the ledger's rows counted.

    Raises:
        fedveil.checks.UserError: no such run, a damaged file of it, or a ledger that was edited or cut.
    """
    run = runs.open_run(root, run_id)
    ledger = readback.ledger_of(run)
    head, rows = ledger.head(), ledger.rows(run_id)
    found = claims.of_run(Federation(readback.settings_of(run)), rows)
    return {
        "run_id": run_id,
        "head": head,
        "rows": _counted(rows),
        "statements": [statement.to_dict() for statement in found.statements],
        "private": found.private,
    }


def of_owner(root: Path, data_set: str, policy: Policy) -> dict[str, Any]:
    """Return what the owner of a data set has spent over all runs, from the vault's ledger.

    Local releases of one image add up over distinct mechanisms and draws: pure losses by their sum, which holds however
    the runs were chosen. Client-level schedules are composed by Renyi divergences. Both stand at the owner's deltas.
    What other data sets spent on the same pictures is included (`privacy.spending`).

    Raises:
        fedveil.checks.UserError: an unknown data set, with the nearest; or a broken chain.
    """
    ledger = Ledger(root / "ledger.sqlite")
    head, content_head = ledger.head(), ledger.content_head()
    history, own = past_of(ledger, data_set, policy)
    return {
        "data_set": data_set,
        "head": head,
        "content_head": content_head,
        "rows": _counted(own),
        "includes": _included(ledger, history, data_set),
        "statements": [statement.to_dict() for statement in totals.of_history(history, deltas_of(policy))],
    }


def deltas_of(policy: Policy) -> Deltas:
    """Return at which deltas an owner's totals stand."""
    return Deltas(policy.image_delta, policy.client_delta)


def past_of(ledger: Ledger, data_set: str, policy: Policy) -> tuple[History, list[Row]]:
    """Return what concerns a data set, or all deals of a source, and its own rows.

    Raises:
        fedveil.checks.UserError: an unknown data set, with the nearest.
    """
    contents = ledger.contents()
    past = Past(ledger.rows(), contents.keys(), policy.image_delta)
    if everybody_of(data_set) == data_set:
        source, deal = deal_of(data_set)
        raise checks.UserError(
            f"{data_set} stands for every client of a deal, beside what each of them spent alone. Name one of them, "
            f"such as {source}/{deal}/c0001, or {source} for all deals with the heaviest client of each."
        )
    known = past.names()
    if data_set not in known and everybody_of(data_set) not in known:
        near = checks.nearest(data_set, [name for name in known if everybody_of(name) != name])
        raise checks.UserError(f"No data set {data_set!r} in {ledger.path}.{near}")
    names = [name for name in contents if data_set in (name, deal_of(name)[0])]
    holders: dict[bytes, set[str]] = {picture: set() for name in names for picture in contents[name]}
    for name, pictures in contents.items():
        for picture in pictures & holders.keys():
            holders[picture].add(name)
    frozen = {picture: frozenset(found) for picture, found in holders.items()}
    history = past.history(data_set, frozen, ledger.draws())
    # Of a source whose pictures are known no client is the heaviest: each picture has rows of its own.
    own = past.rows(data_set) or past.of_source(data_set) or [*dict.fromkeys(history.rows())]
    return history, own


def _included(ledger: Ledger, history: History, data_set: str) -> list[dict[str, Any]]:
    """Return which other data sets' rows count, and why; the deals of one source stand together."""
    counted = collections.Counter(row.subject for row in ledger.rows())
    source = deal_of(data_set)[0]
    found: list[dict[str, Any]] = [
        {"data_set": name, "rows": counted[name], "pictures": count}
        for name, count in sorted(history.shared.items())
        if deal_of(name)[0] != source and counted[name]
    ]
    own = {data_set, everybody_of(data_set)}
    dealt = {row for row in history.rows() if row.subject not in own and deal_of(row.subject)[0] == source != data_set}
    if dealt:
        found.append({"data_set": source, "rows": len(dealt), "pictures": None})
    return found


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
