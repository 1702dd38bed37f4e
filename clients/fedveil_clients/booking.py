"""Accepting a run: the owner's ledger is written before anything is drawn or sent, once, for everything that may come.

Nothing that is written on acceptance depends on which rounds or clients came to take part: a client-level schedule is
reserved whole, and a simulation, whose one vault serves the whole registry, books for all of it at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fedveil.configuration.schema import Policy
from fedveil.data.faces import FaceSet
from fedveil.federation.federation import Federation
from fedveil.privacy.events import Event, LocalRelease
from fedveil.privacy.ledger import Book, Row
from fedveil.privacy.spending import History, Past
from fedveil_clients import policy
from fedveil_clients.memo import ReadOnce, content_hashes
from fedveil_clients.vault import Vault

_CHUNK = 256  # images hashed at a time


def pictures_of(faces: FaceSet, vault: Vault, event: Event, read: ReadOnce) -> list[bytes]:
    """Return the ledger's names of a data set's pictures; kept copies tell them without reading a picture."""
    if kept(event):
        return vault.picture_tags(vault.memo.contents(faces.keys, read))
    contents: list[bytes] = []
    for start in range(0, len(faces), _CHUNK):
        contents += content_hashes(faces.images(range(start, min(start + _CHUNK, len(faces)))))
    return vault.picture_tags(contents)


def kept(event: Event) -> bool:
    """Return whether noisy copies are drawn once and kept."""
    return isinstance(event, LocalRelease) and event.releases == 1


def note_of(federation: Federation) -> str:
    """Return what a row says to people."""
    return "" if federation.settings.privacy.test_seed is None else "NOT PRIVATE: fixed noise (privacy.test_seed)"


def accept(
    federation: Federation,
    run_id: str,
    client_id: str,
    node: policy.Node,
    vault: Vault,
    event: Event,
    mechanism: bytes,
    pictures: Sequence[bytes],
) -> None:
    """Check the owner's limits over runs and book this run, in one transaction; on disk when this returns.

    Args:
        federation: of the run's configuration.
        run_id: the run.
        client_id: this client of the registry.
        node: the owner's own settings.
        vault: the owner's vault.
        event: what one image's use in this run releases.
        mechanism: hash of everything its noise depends on but the image.
        pictures: `pictures_of` the data set.

    Raises:
        PolicyRefusal: a limit over runs would be exceeded; nothing is written.
    """
    settings = federation.settings
    tag = ""
    if kept(event):  # fixed noise is another draw than the owner's own
        seed = settings.privacy.test_seed
        tag = vault.mechanism_tag(mechanism, "" if seed is None else f"test seed {seed}")
    wanted = [Row(run_id, node.data_set, "spent", event, note_of(federation), mechanism=tag)]
    if settings.privacy.client is not None:
        schedule = federation.whole_schedule
        wanted.insert(0, Row(run_id, node.data_set, "reserved", schedule, note_of(federation)))
    # Every attempt of a run without kept copies draws afresh, so one that goes on is booked again, in full.
    again = isinstance(event, LocalRelease) and not kept(event) and settings.privacy.test_seed is None
    ledger = vault.ledger
    if not again and ledger.path.exists():
        with ledger.read() as book:
            if _complete(book, wanted, pictures):
                return
    rule = node.policy or settings.policy
    names: tuple[str, ...] = (node.data_set,)
    if settings.privacy.client is not None or rule.over_runs:
        names = policy.registry(federation, client_id, node)
    with ledger.write() as book:
        if not again and _booked(book, wanted):
            names = (node.data_set,)  # with everybody else, when the first one opened
        rows = _missing(book, wanted, names, node.data_set, again, pictures)
        book.add_content(node.data_set, pictures)
        if rule.over_runs:
            rows = _allowed(book, rule, rows, node.data_set, pictures)
        book.append(row for mine in rows.values() for row in mine)


def enrolled(
    rule: Policy, run_id: str, node: policy.Node, vault: Vault, event: Event, pictures: Sequence[bytes]
) -> None:
    """Check the owner's limits over runs and book a gallery, every one anew; on disk when this returns.

    Raises:
        PolicyRefusal: a limit over runs would be exceeded; nothing is written.
    """
    rows = {node.data_set: [Row(run_id, node.data_set, "spent", event, "gallery")]}
    with vault.ledger.write() as book:
        book.add_content(node.data_set, pictures)
        if rule.over_runs:
            rows = _allowed(book, rule, rows, node.data_set, pictures)
        book.append(rows[node.data_set])


def _complete(book: Book, wanted: Sequence[Row], pictures: Sequence[bytes]) -> bool:
    """Return whether everything is there already: another round, or a run that goes on."""
    return _booked(book, wanted) and all(wanted[0].subject in names for names in book.holders(pictures).values())


def _booked(book: Book, wanted: Sequence[Row]) -> bool:
    for row in wanted:
        statuses = ("spent", "reused") if row.status == "spent" else (row.status,)
        if not any(book.has(dataclasses.replace(row, status=status)) for status in statuses):
            return False
    return True


def _missing(
    book: Book, wanted: Sequence[Row], names: Sequence[str], own: str, again: bool, pictures: Sequence[bytes]
) -> dict[str, list[Row]]:
    """Return the rows that are not there yet, by data set.

    A data set that has spent a kept mechanism reads its copies again. In a registry this is asked of the ledger alone:
    who has read new pictures would tell who took part.
    """
    found: dict[str, list[Row]] = {name: [] for name in names}
    alone = len(names) == 1
    grown = alone and any(own not in holders for holders in book.holders(pictures).values())
    for row in wanted:
        only = own if alone else None
        there = book.booked(row, only)
        drawn = set() if grown else book.drawn(row.mechanism, only)
        for name in names:
            afresh = again and row.status == "spent"  # known of the client that draws, and of no other
            if (afresh and name != own) or (not afresh and name in there):
                continue
            status = "reused" if row.status == "spent" and name in drawn else row.status
            found[name].append(dataclasses.replace(row, subject=name, status=status))
    return found


def _allowed(
    book: Book, rule: Policy, rows: dict[str, list[Row]], own: str, pictures: Sequence[bytes]
) -> dict[str, list[Row]]:
    """Return the rows of the data sets whose owner's limits they keep; raise if this node's own are not kept."""
    holders = book.holders(pictures)
    if not rows[own] and all(names == {own} for names in holders.values()):
        return rows  # accepted before, and its pictures tell nothing new
    past = Past(book.rows(), book.recorded())
    policy.check_runs(rule, past.history(own, holders), past.history(own, holders, rows[own]))
    contents = book.contents() if len(rows) > 1 else {}
    allowed = {own: rows[own]}
    verdicts: dict[tuple[object, object], bool] = {}  # thousands of clients have equal histories
    for name in rows:
        if name == own or not rows[name]:
            continue
        known = book.holders(contents.get(name, ()))
        before, after = past.history(name, known), past.history(name, known, rows[name])
        key = before.anonymous(), after.anonymous()
        if key not in verdicts:
            verdicts[key] = _keeps(rule, before, after)
        if verdicts[key]:  # else it is refused when it opens, and takes no part
            allowed[name] = rows[name]
    return allowed


def _keeps(rule: Policy, before: History, after: History) -> bool:
    try:
        policy.check_runs(rule, before, after)
    except policy.PolicyRefusal:
        return False
    return True
