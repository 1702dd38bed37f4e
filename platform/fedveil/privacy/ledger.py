"""Append-only ledgers: what was released, on disk before the released value is used.

One SQLite file per store. Rows hold public parameters only: an event, who is concerned (a data set's stable id in the
owner's ledger, the run in the coordinator's), and a note. An owner's file also says which pictures a data set holds, by
keyed hashes, so that a renamed or grown set keeps its past. Both tables are chained: every line carries a SHA-256 over
the line before it and itself, so an edit breaks the chain. Truncation and rollback show only against a head hash that
was kept elsewhere: the run's is in its checkpoint and in MLflow. Rolling back everything together is out of scope.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedveil import checks
from fedveil.privacy import events
from fedveil.privacy.events import Event
from fedveil.storage import databases

_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS row (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL, run_id TEXT NOT NULL, subject TEXT NOT NULL, status TEXT NOT NULL,
  event TEXT NOT NULL, digest TEXT NOT NULL, note TEXT NOT NULL, hash TEXT NOT NULL,
  mechanism TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS by_run ON row (run_id, subject);
CREATE INDEX IF NOT EXISTS by_mechanism ON row (mechanism, subject);
CREATE TABLE IF NOT EXISTS content (
  id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL, picture BLOB NOT NULL, hash BLOB NOT NULL,
  record BLOB NOT NULL DEFAULT x'');
DROP INDEX IF EXISTS by_picture;
CREATE UNIQUE INDEX IF NOT EXISTS by_content ON content (picture, subject, record);
CREATE INDEX IF NOT EXISTS by_record ON content (record, picture);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON row BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON row BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS content_no_update BEFORE UPDATE ON content
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS content_no_delete BEFORE DELETE ON content
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
_NEW = f"{_SCHEMA}PRAGMA user_version={_VERSION};"
_AT_ONCE = 500  # pictures in one query
_RESTORE = "Restore it from a backup: what it forgets was released all the same."


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a ledger.

    Attributes:
        run_id: the run in which it happened.
        subject: the data set concerned (owner's ledger) or "run" (coordinator's).
        status: "spent" for a release, "reused" when memoised copies were read again (costs nothing), "reserved" for a
            schedule that was accepted.
        event: what happened.
        note: a remark for people, e.g. that the run is NOT PRIVATE.
        at: UTC time of writing, ISO 8601; filled in by the ledger unless given, as where times tell who took part.
        mechanism: keyed hash of a mechanism whose copies are drawn once and kept: rows with the same one speak of the
            same draws. Empty where every reading draws afresh, and in rows of older files: those are no draw that a
            later row could speak of again.
    """

    run_id: str
    subject: str
    status: str
    event: Event
    note: str = ""
    at: str = ""
    mechanism: str = ""


@dataclasses.dataclass(frozen=True)
class Held:
    """One picture of a data set, by keyed hashes: what it shows, and which record of the set it is."""

    picture: bytes
    record: bytes = b""


@dataclasses.dataclass(frozen=True)
class Ends:
    """The last line of a ledger's rows and of its pictures: their numbers, 0 for none, and their hashes."""

    rows: int = 0
    row: str = ""
    pictures: int = 0
    picture: str = ""


GALLERY = "gallery"
"""The note of a row that is a gallery: faces were released, and no model."""

EVERYBODY = "*"
"""The client of a subject SOURCE/DEAL/* that stands for every client of the deal: written once for all of them."""

_SHARE = re.compile(r"([a-z]+-[0-9a-f]{2,})/([0-9a-f]{2,})/([A-Za-z0-9._-]+|\*)")
"""SOURCE/DEAL/CLIENT as `Federation.data_id` makes it of hashes. No name that an owner may choose looks like it."""


def checked_name(name: str, what: str) -> str:
    """Return an owner's own name of a data set: one that cannot be taken for a share of a deal.

    Raises:
        fedveil.checks.UserError: an empty name, or one with a slash or an asterisk.
    """
    if not name.strip() or "/" in name or EVERYBODY in name:
        raise checks.UserError(
            f"Expected {what}={name!r} to be a name without / and *, which stand for shares of a simulation's deal."
        )
    return name


def deal_of(subject: str) -> tuple[str, str]:
    """Return (source, deal) of a subject SOURCE/DEAL/CLIENT of a simulation; (subject, "") of any other name.

    >>> deal_of("pictures-ab/12/c0001"), deal_of("hospital"), deal_of("h/w/1")
    (('pictures-ab', '12'), ('hospital', ''), ('h/w/1', ''))
    """
    found = _SHARE.fullmatch(subject)
    return (found[1], found[2]) if found else (subject, "")


def everybody_of(subject: str) -> str | None:
    """Return the subject that stands for all clients of a client's deal, or None of a name that is no share.

    >>> everybody_of("pictures-ab/12/c0001"), everybody_of("hospital")
    ('pictures-ab/12/*', None)
    """
    source, deal = deal_of(subject)
    return f"{source}/{deal}/{EVERYBODY}" if deal else None


GENESIS = "0" * 64
"""The hash before the first row, and before the first picture."""


class BrokenLedger(checks.UserError):
    """The chain of hashes does not hold: a line was changed, removed or inserted."""


class Book:
    """A ledger that is open: what is read and written here belongs together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows after the last one."""
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        last = self._connection.execute("SELECT hash FROM row ORDER BY id DESC LIMIT 1").fetchone()
        head = last[0] if last else GENESIS
        texts: dict[Event, tuple[str, str]] = {}
        values = []
        for row in rows:
            if row.event not in texts:
                texts[row.event] = json.dumps(events.to_dict(row.event)), events.digest(row.event)
            text, digest = texts[row.event]
            fields = (row.at or at, row.run_id, row.subject, row.status, text, row.note)
            head = _chained(head, fields, row.mechanism)
            values.append((*fields, row.mechanism, digest, head))
        self._connection.executemany(
            "INSERT INTO row (at, run_id, subject, status, event, note, mechanism, digest, hash) "
            "VALUES (?,?,?,?,?,?,?,?,?)",
            values,
        )

    def ends(self) -> Ends:
        """Return where the ledger stands."""
        row = self._connection.execute("SELECT id, hash FROM row ORDER BY id DESC LIMIT 1").fetchone()
        picture = self._connection.execute("SELECT id, hex(hash) FROM content ORDER BY id DESC LIMIT 1").fetchone()
        return Ends(*(row or (0, "")), *(picture or (0, "")))

    def holds(self, ends: Ends) -> bool:
        """Return whether the ledger has once ended there: an older one has not, and an exchanged one neither."""
        row = self._connection.execute("SELECT hash FROM row WHERE id=?", (ends.rows,)).fetchone()
        picture = self._connection.execute("SELECT hex(hash) FROM content WHERE id=?", (ends.pictures,)).fetchone()
        wanted = (ends.row,) if ends.rows else None, (ends.picture,) if ends.pictures else None
        return bool((row, picture) == wanted)

    def has(self, row: Row) -> bool:
        """Return whether an equal row is there: the same run, subject, status, event, mechanism and note.

        An event says what a release costs, not what was drawn: two mechanisms of one run have equal events.
        """
        query = "SELECT 1 FROM row WHERE run_id=? AND subject=? AND status=? AND digest=? AND mechanism=? AND note=?"
        values = (row.run_id, row.subject, row.status, events.digest(row.event), row.mechanism, row.note)
        return self._connection.execute(query, values).fetchone() is not None

    def drawn(self, mechanism: str, subject: str) -> bool:
        """Return whether a subject has spent this kept mechanism, in whatever run."""
        query = "SELECT 1 FROM row WHERE mechanism=? AND mechanism<>'' AND status='spent' AND subject=? LIMIT 1"
        return self._connection.execute(query, (mechanism, subject)).fetchone() is not None

    def rows(self) -> list[Row]:
        """Return all rows in the order of writing."""
        query = "SELECT run_id, subject, status, event, note, at, mechanism FROM row ORDER BY id"
        parsed: dict[str, Event] = {}  # thousands of clients have equal ones
        rows = []
        for run_id, subject, status, text, note, at, mechanism in self._connection.execute(query):
            if text not in parsed:
                parsed[text] = self._event(text)
            rows.append(Row(run_id, subject, status, parsed[text], note, at, mechanism))
        return rows

    def _event(self, text: str) -> Event:
        try:
            return events.from_dict(json.loads(text))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            path = self._connection.execute("PRAGMA database_list").fetchone()[2]
            raise BrokenLedger(f"{path}: a row holds no event that can be read ({error}). {_RESTORE}") from error

    def holders(self, pictures: Iterable[bytes]) -> dict[bytes, frozenset[str]]:
        """Return for each picture the data sets that are known to hold it."""
        query = "SELECT subject FROM content WHERE picture=?"
        return {
            picture: frozenset(subject for (subject,) in self._connection.execute(query, (picture,)))
            for picture in pictures
        }

    def contents(self) -> dict[str, set[bytes]]:
        """Return the pictures of every data set."""
        found: dict[str, set[bytes]] = {}
        for subject, picture in self._connection.execute("SELECT subject, picture FROM content"):
            found.setdefault(subject, set()).add(picture)
        return found

    def recorded(self) -> set[str]:
        """Return the data sets whose pictures are known."""
        return {subject for (subject,) in self._connection.execute("SELECT DISTINCT subject FROM content")}

    def lacks(self, subject: str, held: Iterable[Held]) -> list[Held]:
        """Return the pictures that a data set is not yet known to hold as these records."""
        asked = {(one.picture, one.record): one for one in held}
        pictures = [picture for picture, _ in asked]
        for start in range(0, len(pictures), _AT_ONCE):
            some = pictures[start : start + _AT_ONCE]
            query = f"SELECT picture, record FROM content WHERE subject=? AND picture IN ({','.join('?' * len(some))})"
            for known in self._connection.execute(query, (subject, *some)):
                asked.pop(known, None)
        return [*asked.values()]

    def changed(self, subject: str, held: Iterable[Held]) -> int:
        """Return how many records a data set is known to have held with another picture only."""
        query = "SELECT MAX(picture=?) FROM content WHERE subject=? AND record=? AND record<>x''"
        found = (self._connection.execute(query, (one.picture, subject, one.record)).fetchone()[0] for one in held)
        return sum(there == 0 for there in found)

    def draws(self, pictures: Iterable[bytes]) -> dict[bytes, dict[str, int]]:
        """Return how often a mechanism whose copies are kept is drawn for each picture, by source; 1 is left out.

        A copy belongs to a record and to what it shows. So a picture is drawn once for every record that ever was it,
        and a record once for every picture that it ever was; the larger of both counts.
        """
        query = "SELECT subject, record FROM content WHERE picture=?"
        contents = "SELECT COUNT(DISTINCT picture) FROM content WHERE record=?"
        found: dict[bytes, dict[str, int]] = {}
        for picture in pictures:
            records: dict[str, set[bytes]] = {}
            for subject, record in self._connection.execute(query, (picture,)):
                records.setdefault(deal_of(subject)[0], set()).add(record)
            counts = {
                source: max(len(mine), *(self._connection.execute(contents, (one,)).fetchone()[0] if one else 1
                                         for one in mine))
                for source, mine in records.items()
            }  # fmt: skip
            found[picture] = {source: count for source, count in counts.items() if count > 1}
        return found

    def add_content(self, subject: str, held: Iterable[Held]) -> None:
        """Remember that a data set holds these pictures as these records; what is known already is left as it is."""
        last = self._connection.execute("SELECT hash FROM content ORDER BY id DESC LIMIT 1").fetchone()
        head = last[0] if last else bytes.fromhex(GENESIS)
        values = []
        for one in self.lacks(subject, held):
            head = _content_chained(head, subject, one)
            values.append((subject, one.picture, head, one.record))
        self._connection.executemany("INSERT INTO content (subject, picture, hash, record) VALUES (?,?,?,?)", values)


class Ledger:
    """An append-only file of rows; safe for several processes at once. A `private` one is made for its owner alone."""

    def __init__(self, path: Path, private: bool = False) -> None:
        self.path, self._private = path, private

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with databases.opened(self.path, _NEW, "ledger", _RESTORE, self._private) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] < _VERSION:
                _prepare(connection)
            yield connection

    @contextmanager
    def write(self) -> Iterator[Book]:
        """Open for one transaction that nobody else can write into; on disk at its end, undone by an exception."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Book(connection)
            except BaseException:
                if connection.in_transaction:  # a full disk has undone it already
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[Book]:
        """Open for one consistent look."""
        with self._open() as connection:
            connection.execute("BEGIN")
            yield Book(connection)

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows in one transaction; they are on disk when this returns."""
        with self.write() as book:
            book.append(rows)

    def append_once(self, row: Row) -> None:
        """Write a row unless an equal one is there (`Book.has`); on disk when this returns."""
        if self.has(row):
            return
        with self.write() as book:
            if not book.has(row):
                book.append([row])

    def heads(self) -> list[str]:
        """Return the hash after each row, first to last, having checked the whole chain.

        Raises:
            BrokenLedger: naming the file and the first row that does not fit.
        """
        if not self.path.exists():
            return []
        with self._open() as connection:
            query = "SELECT id, at, run_id, subject, status, event, note, mechanism, hash FROM row ORDER BY id"
            found = connection.execute(query).fetchall()
        head, heads = GENESIS, []
        for number, *fields, mechanism, kept in found:
            head = _chained(head, tuple(map(str, fields)), str(mechanism))
            if head != kept:
                raise BrokenLedger(f"{self.path}: row {number} does not follow from the rows before it; it was edited.")
            heads.append(head)
        return heads

    def content_heads(self) -> list[str]:
        """Return the hash after each picture of the content table, having checked its chain.

        Raises:
            BrokenLedger: naming the file and the first picture that does not fit.
        """
        if not self.path.exists():
            return []
        with self._open() as connection:
            found = connection.execute("SELECT id, subject, picture, record, hash FROM content ORDER BY id").fetchall()
        head, heads = bytes.fromhex(GENESIS), []
        for number, subject, picture, record, kept in found:
            if isinstance(subject, str) and isinstance(picture, bytes):
                head = _content_chained(head, subject, Held(picture, record))
            if head != kept:
                raise BrokenLedger(f"{self.path}: picture {number} does not follow from those before; it was edited.")
            heads.append(head.hex())
        return heads

    def check_holds(self, anchor: str) -> None:
        """Refuse a ledger that does not contain the head `anchor`, of its rows or its pictures: it was cut or replaced.

        Raises:
            BrokenLedger: naming the file.
        """
        if anchor != GENESIS and anchor not in self.heads() and anchor not in self.content_heads():
            raise BrokenLedger(
                f"{self.path} does not hold the entry {anchor[:12]} that the checkpoint was written after: it was cut, "
                "rolled back or replaced. Restore it; without its ledger a checkpoint cannot be continued."
            )

    def head(self) -> str:
        """Return the hash after the last row, having checked the chain."""
        return ([GENESIS, *self.heads()])[-1]

    def content_head(self) -> str:
        """Return the hash after the last picture, having checked the chain."""
        return ([GENESIS, *self.content_heads()])[-1]

    def rows(self, run_id: str | None = None) -> list[Row]:
        """Return all rows, or those of one run, in the order of writing; an absent file holds none."""
        if not self.path.exists():
            return []
        with self.read() as book:
            return [row for row in book.rows() if run_id in (None, row.run_id)]

    def contents(self) -> Mapping[str, set[bytes]]:
        """Return the keyed hashes of the pictures of every data set; an absent file holds none."""
        if not self.path.exists():
            return {}
        with self.read() as book:
            return book.contents()

    def draws(self) -> dict[bytes, dict[str, int]]:
        """Return `Book.draws` of every picture; an absent file holds none."""
        if not self.path.exists():
            return {}
        with self.read() as book:
            return book.draws({picture for held in book.contents().values() for picture in held})

    def has(self, row: Row) -> bool:
        """Return whether an equal row is there already (`Book.has`): a resumed attempt."""
        if not self.path.exists():
            return False
        with self.read() as book:
            return book.has(row)


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file, or add what a file of an older version lacks; its rows stay as they are."""
    connection.execute("BEGIN IMMEDIATE")
    columns = [column[1] for column in connection.execute("PRAGMA table_info(row)")]
    if columns and "mechanism" not in columns:
        connection.execute("ALTER TABLE row ADD COLUMN mechanism TEXT NOT NULL DEFAULT ''")
    columns = [column[1] for column in connection.execute("PRAGMA table_info(content)")]
    if columns and "record" not in columns:
        connection.execute("ALTER TABLE content ADD COLUMN record BLOB NOT NULL DEFAULT x''")
    statement = ""
    for line in _SCHEMA.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(f"PRAGMA user_version={_VERSION}")
    connection.execute("COMMIT")


def _chained(head: str, fields: tuple[str, ...], mechanism: str) -> str:
    written = [*fields, mechanism] if mechanism else fields  # rows of older files have none
    return hashlib.sha256((head + json.dumps(written)).encode()).hexdigest()


def _content_chained(head: bytes, subject: str, held: Held) -> bytes:
    picture, record = held.picture, held.record
    written = len(picture).to_bytes(2, "big") + picture + subject.encode()
    if record:  # lines of older files have none
        written += b"\x00" + len(record).to_bytes(2, "big") + record
    return hashlib.sha256(head + written).digest()
