"""SQLite files: made whole, on disk when a transaction ends, and named when they are damaged or cannot be written."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fedveil import checks
from fedveil.storage import disk

_WAIT = 60.0  # seconds for another process's transaction to end
_CANNOT = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
}


@contextlib.contextmanager
def opened(
    path: Path, schema: str, what: str, remedy: str, private: bool = False, isolation: Literal["DEFERRED"] | None = None
) -> Iterator[sqlite3.Connection]:
    """Open a database, which is made with the tables of `schema` if there is none.

    What a transaction wrote is on disk when its COMMIT returns, and stays there through a loss of power: EXTRA also
    makes the end of the rollback journal last, which would else undo the transaction when it came back. A new file
    appears with all its tables and with its mode, which SQLite gives to the files that it keeps beside it: an empty
    file is therefore a damaged one.

    Args:
        path: the file.
        schema: SQL statements.
        what: what it holds, in a word or two for messages.
        remedy: what to do about a damaged file, a sentence.
        private: readable by its owner alone (mode 0600).
        isolation: see `sqlite3.connect`; None leaves transactions to explicit statements.

    Raises:
        fedveil.checks.UserError: the file is damaged, or another process keeps it busy.
        OSError: it cannot be read or written; both name it.
    """
    with errors_named(path, what, remedy):
        if not path.exists():
            disk.create(path, _blank(schema), private)
        elif path.is_file() and path.stat().st_size == 0:
            raise checks.UserError(f"{path} is not a readable {what}: it is empty. {remedy}")
        connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=isolation)
        try:
            connection.execute("PRAGMA synchronous=EXTRA")
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def errors_named(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn SQLite's errors, which name no file, into such that do."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a mistake of the caller
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _CANNOT:
            raise OSError(_CANNOT[code], str(error), str(path)) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise checks.UserError(f"{path} is kept busy by another process; wait for it or stop it.") from error
        raise checks.UserError(f"{path} is not a readable {what}: {error}. {remedy}") from error
    except UnicodeDecodeError as error:  # a name of its tables, which SQLite repeats in a message or a statement
        raise checks.UserError(f"{path} is not a readable {what}: it holds bytes that are no text. {remedy}") from error


def _blank(schema: str) -> bytes:
    """Return an SQLite file that holds the tables of `schema`, and nothing in them."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema)
        return connection.serialize()
