"""SQLite files: durable when a transaction ends, whole from their first moment, named when they are damaged or full."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedveil import checks
from fedveil.privacy.events import NonPrivate
from fedveil.privacy.ledger import Held, Ledger, Row
from fedveil.storage import databases, disk
from fedveil_clients.memo import Memo
from fedveil_clients.vault import Vault

ROW = Row("run", "set", "spent", NonPrivate("image", "the server", "no noise"))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Note each connection's file and its durability at the moment of every COMMIT."""
    seen: list[tuple[str, Any]] = []

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql.startswith("COMMIT"):
                self.note()
            return super().execute(sql, *rest)

        def __exit__(self, *rest: Any) -> bool:  # type: ignore[override]
            self.note()
            return bool(super().__exit__(*rest))

        def note(self) -> None:
            place, *kept = (
                super(Watched, self).execute(f"PRAGMA {word}").fetchone()[-1]
                for word in ("database_list", "synchronous", "journal_mode")
            )
            seen.append((Path(place).name, tuple(kept)))

    plain = sqlite3.connect

    def connect(*arguments: Any, **more: Any) -> sqlite3.Connection:
        return plain(*arguments, **more, factory=Watched)

    monkeypatch.setattr(sqlite3, "connect", connect)
    return seen


def test_a_ledgers_commit_outlives_a_loss_of_power(tmp_path: Path, watched: list[tuple[str, Any]]) -> None:
    """Below FULL the rows may be in the machine's memory alone when the noisy value is used. In mode `delete` a commit
    is the removal of the journal, and only EXTRA syncs that: the journal would come back and undo the row."""
    for ledger in (Ledger(tmp_path / "run.sqlite"), Vault(tmp_path).ledger):
        ledger.append([ROW])
        ledger.append_once(ROW)
        with ledger.write() as book:
            book.add_content("set", [Held(b"a", b"r")])
    assert [name for name, _ in watched].count("run.sqlite") == 2
    assert [name for name, _ in watched].count("ledger.sqlite") == 2
    assert {kept for _, kept in watched} == {(3, "delete")}


def test_a_new_ledger_is_synced_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}") if Path("/proc/self/fd").exists() else "")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with Ledger(tmp_path / "ledger.sqlite").write():
        assert len(synced) == 2
    if synced[-1]:
        assert Path(synced[-1]) == tmp_path


def test_a_file_appears_with_its_tables_and_its_mode(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        private, shared = Ledger(tmp_path / "private.sqlite", private=True), Ledger(tmp_path / "shared.sqlite")
        modes = {}
        for ledger in (private, shared):
            with ledger.write() as book:
                book.append([ROW])
                for path in tmp_path.glob(f"{ledger.path.name}*"):
                    modes[path.name] = path.stat().st_mode & 0o777
    finally:
        os.umask(old)
    assert modes["private.sqlite"] == modes["private.sqlite-journal"] == 0o600
    assert modes["shared.sqlite"] == modes["shared.sqlite-journal"] == 0o644
    assert private.rows() == shared.rows()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff\xfe no database" * 900),
    "json": lambda path: path.write_text('{"half": '),
    "truncated": truncated,
    "scribbled": lambda path: path.write_bytes(path.read_bytes()[:100] + bytes([7]) * (path.stat().st_size - 100)),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("use", ["rows", "head", "contents", "content_head", "append", "has"])
def test_a_damaged_ledger_is_named(tmp_path: Path, how: str, use: str) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ROW] * 200)
    with ledger.write() as book:
        book.add_content("set", [Held(bytes([number]) * 16, bytes([number])) for number in range(200)])
    DAMAGE[how](ledger.path)
    argument: list[Any] = {"append": [[ROW]], "has": [ROW]}.get(use, [])
    with pytest.raises(checks.UserError, match=r"ledger\.sqlite") as caught:
        getattr(ledger, use)(*argument)
    assert "Restore it from a backup" in str(caught.value)


@pytest.mark.parametrize("text", ["not json", "[]", '{"kind": "unheard"}', '{"kind": "non_private", "odd": 1}', "3"])
def test_a_row_whose_event_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ROW])
    connection = sqlite3.connect(ledger.path)
    connection.execute("DROP TRIGGER no_update")
    connection.execute("UPDATE row SET event=?", (text,))
    connection.commit()
    connection.close()
    with pytest.raises(checks.UserError, match=r"ledger\.sqlite: a row holds no event that can be read"):
        ledger.rows()


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_index_of_copies_is_named_with_the_remedy(tmp_path: Path, how: str) -> None:
    memo = Memo(tmp_path)
    with memo._opened() as connection:
        connection.execute("CREATE TABLE filler (x)")
        connection.executemany("INSERT INTO filler VALUES (?)", [("x" * 100,)] * 400)
        connection.commit()
    DAMAGE[how](tmp_path / "index.sqlite")
    with pytest.raises(checks.UserError, match=r"index\.sqlite is not a readable index of noisy copies: .* Remove it"):
        memo.contents(["file"], lambda index: None)  # type: ignore[arg-type, return-value]


def test_a_database_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    Ledger(path).append([ROW])

    def full() -> None:
        with databases.opened(path, "", "ledger", "") as connection:
            connection.execute("PRAGMA max_page_count=1")  # what SQLite says of a full disk
            connection.execute("CREATE TABLE more (x)")
            connection.execute("INSERT INTO more VALUES (?)", ("x" * 100_000,))

    def readonly() -> None:
        with databases.opened(path, "", "ledger", "") as connection:
            connection.execute("PRAGMA query_only=ON")
            connection.execute("DELETE FROM content")

    for cannot, said in ((full, "database or disk is full"), (readonly, "attempt to write a readonly database")):
        with pytest.raises(OSError, match=said) as caught:
            cannot()
        assert caught.value.filename == str(path)
        assert disk.said(caught.value).startswith(f"{path}: {said}")
    with pytest.raises(OSError, match="unable to open") as caught, databases.opened(tmp_path, "", "ledger", ""):
        pass
    assert caught.value.filename == str(tmp_path)


def test_a_full_disk_within_a_transaction_is_said_and_not_what_it_undid(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.append([ROW])

    def write() -> None:
        with ledger.write() as book:
            book._connection.execute("PRAGMA max_page_count=1")
            book.append([Row("run", "set" * 50_000, "spent", ROW.event)])

    with pytest.raises(OSError, match="full"):
        write()
    assert len(ledger.rows()) == 1


@pytest.mark.parametrize("damaged", [b"CREATE TABL\xff", b"CREATE\xffTABLE"])
@pytest.mark.parametrize("what", ["ledger", "copies"])
def test_a_byte_that_is_no_text_is_damage_with_a_name(tmp_path, what, damaged):
    vault = Vault(tmp_path)
    paths = {"ledger": vault.ledger.path, "copies": tmp_path / "copies" / "index.sqlite"}

    def read():
        if what == "copies":
            return vault.memo.contents([], lambda _: np.zeros((0, 3, 4, 4), np.uint8))
        return vault.ledger.rows()

    with vault.ledger.write():
        pass
    read()
    path = paths[what]
    whole = path.read_bytes()
    assert whole.count(b"CREATE TABLE")
    path.write_bytes(whole.replace(b"CREATE TABLE", damaged))
    with pytest.raises(checks.UserError, match=f"{path.name} is not a readable"):
        read()
