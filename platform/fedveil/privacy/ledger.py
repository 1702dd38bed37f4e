"""Append-only ledgers: what was released, on disk before the released value is used.

One SQLite file per store. Rows hold public parameters only: an event, who is concerned (a data set's stable id in the
owner's ledger, the run in the coordinator's), and a note. Every row carries a SHA-256 over the row before it and
itself, so an edit breaks the chain. Truncation and rollback show only against a head hash that was kept elsewhere: the
run's is in its checkpoint and in MLflow. Rolling back everything together is out of scope.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedveil import checks
from fedveil.privacy import events
from fedveil.privacy.events import Event

_SCHEMA = """
CREATE TABLE IF NOT EXISTS row (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL, run_id TEXT NOT NULL, subject TEXT NOT NULL, status TEXT NOT NULL,
  event TEXT NOT NULL, digest TEXT NOT NULL, note TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_run ON row (run_id, subject);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON row BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON row BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a ledger.

    Attributes:
        run_id: the run in which it happened.
        subject: the data set concerned (owner's ledger) or "run" (coordinator's).
        status: "spent" for a release, "reused" when a memoised copy was read again (costs nothing).
        event: what happened.
        note: a remark for people, e.g. that the run is NOT PRIVATE.
        at: UTC time of writing, ISO 8601; filled in by the ledger unless given, as where times tell who took part.
    """

    run_id: str
    subject: str
    status: str
    event: Event
    note: str = ""
    at: str = ""


def by_source(rows: Iterable[Row], weight: Callable[[list[Row]], float]) -> dict[str, list[Row]]:
    """Group an owner's rows by where the pictures are: subjects SOURCE/DEAL/CLIENT of one source are one data set.

    A picture is at one client of a deal, so of every deal the client with the largest `weight` counts, and deals add.
    Other subjects stand for themselves.
    """
    subjects: dict[str, list[Row]] = {}
    for row in rows:
        subjects.setdefault(row.subject, []).append(row)
    deals: dict[tuple[str, str], list[list[Row]]] = {}
    for subject, mine in subjects.items():
        source, *rest = subject.split("/")
        deals.setdefault((source, rest[0]) if len(rest) == 2 else (subject, ""), []).append(mine)
    merged: dict[str, list[Row]] = {}
    for (source, _), clients in deals.items():
        heaviest = max(clients, key=weight)
        merged.setdefault(source, []).extend(heaviest)
    return merged


GENESIS = "0" * 64
"""The hash before the first row."""


class BrokenLedger(checks.UserError):
    """The chain of hashes does not hold: a row was changed, removed or inserted."""


class Ledger:
    """An append-only file of rows; safe for several processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(_SCHEMA)
            yield connection
        finally:
            connection.close()

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows in one transaction; they are on disk when this returns."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            _insert(connection, rows)
            connection.execute("COMMIT")

    def append_once(self, row: Row) -> None:
        """Write a row unless an equal one of the same run, subject and status is there; on disk when this returns."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute(_SAME, _identity(row)).fetchone() is None:
                _insert(connection, [row])
            connection.execute("COMMIT")

    def heads(self) -> list[str]:
        """Return the hash after each row, first to last, having checked the whole chain.

        Raises:
            BrokenLedger: naming the file and the first row that does not fit.
        """
        if not self.path.exists():
            return []
        with self._open() as connection:
            query = "SELECT id, at, run_id, subject, status, event, note, hash FROM row ORDER BY id"
            found = connection.execute(query).fetchall()
        head, heads = GENESIS, []
        for number, *fields, kept in found:
            head = _chained(head, tuple(fields))
            if head != kept:
                raise BrokenLedger(f"{self.path}: row {number} does not follow from the rows before it; it was edited.")
            heads.append(head)
        return heads

    def check_holds(self, anchor: str) -> None:
        """Refuse a ledger that does not contain the head `anchor`: it was cut, rolled back or replaced.

        Raises:
            BrokenLedger: naming the file.
        """
        if anchor != GENESIS and anchor not in self.heads():
            raise BrokenLedger(
                f"{self.path} does not hold the entry {anchor[:12]} that the checkpoint was written after: it was cut, "
                "rolled back or replaced. Restore it; without its ledger a checkpoint cannot be continued."
            )

    def head(self) -> str:
        """Return the hash after the last row, having checked the chain."""
        return ([GENESIS, *self.heads()])[-1]

    def rows(self, run_id: str | None = None) -> list[Row]:
        """Return all rows, or those of one run, in the order of writing; an absent file holds none."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            query = "SELECT run_id, subject, status, event, note, at FROM row ORDER BY id"
            found = connection.execute(query).fetchall()
        rows = [Row(r, s, status, events.from_dict(json.loads(e)), note, at) for r, s, status, e, note, at in found]
        return [row for row in rows if run_id in (None, row.run_id)]

    def has(self, row: Row) -> bool:
        """Return whether an equal row of the same run, subject and status is there already (a resumed attempt)."""
        if not self.path.exists():
            return False
        with self._open() as connection:
            return connection.execute(_SAME, _identity(row)).fetchone() is not None


_SAME = "SELECT 1 FROM row WHERE run_id=? AND subject=? AND status=? AND digest=? LIMIT 1"


def _identity(row: Row) -> tuple[str, str, str, str]:
    return (row.run_id, row.subject, row.status, events.digest(row.event))


def _insert(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Chain rows to the last one of the file, inside the caller's transaction."""
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    last = connection.execute("SELECT hash FROM row ORDER BY id DESC LIMIT 1").fetchone()
    head = last[0] if last else GENESIS
    values = []
    for row in rows:
        fields = (row.at or at, row.run_id, row.subject, row.status, json.dumps(events.to_dict(row.event)), row.note)
        head = _chained(head, fields)
        values.append((*fields, events.digest(row.event), head))
    connection.executemany(
        "INSERT INTO row (at, run_id, subject, status, event, note, digest, hash) VALUES (?,?,?,?,?,?,?,?)", values
    )


def _chained(head: str, fields: tuple[str, ...]) -> str:
    return hashlib.sha256((head + json.dumps(fields)).encode()).hexdigest()
