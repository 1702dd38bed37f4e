"""Append-only rows that survive, in order; statements say unit, relation, delta and view together."""

import dataclasses
import hashlib
import json
import math
import sqlite3

import pytest

from fedveil import checks
from fedveil.federation.federation import Federation
from fedveil.privacy import events, gaussian, statements
from fedveil.privacy.events import LocalRelease, NonPrivate
from fedveil.privacy.ledger import (
    GENESIS,
    BrokenLedger,
    Held,
    Ledger,
    Row,
    checked_name,
    deal_of,
    everybody_of,
)
from fedveil.privacy.spending import Past

LAPLACE = LocalRelease("laplace", 8.0, max_images_per_identity=3, detail=(("radius", 2.5), ("mode", "image")))
NONE = NonPrivate("image", "the server", "no noise")


def test_rows_come_back_in_order_and_equal(tmp_path):
    ledger = Ledger(tmp_path / "vault" / "ledger.sqlite")
    assert ledger.rows() == []
    ledger.append([Row("r1", "set", "spent", LAPLACE), Row("r1", "set", "reused", LAPLACE, "note")])
    ledger.append([Row("r2", "set", "spent", NONE)])
    assert [(row.run_id, row.status, row.event, row.note) for row in ledger.rows()] == [
        ("r1", "spent", LAPLACE, ""),
        ("r1", "reused", LAPLACE, "note"),
        ("r2", "spent", NONE, ""),
    ]
    assert len(ledger.rows("r1")) == 2
    assert ledger.has(Row("r2", "set", "spent", NONE))
    assert not ledger.has(Row("r2", "set", "spent", LAPLACE))
    kept = Row("r3", "set", "spent", LAPLACE, "note", mechanism="m")
    ledger.append([kept])
    assert ledger.has(kept)
    for other in ({"mechanism": "n"}, {"mechanism": ""}, {"note": ""}, {"status": "reused"}, {"subject": "s"}):
        assert not ledger.has(dataclasses.replace(kept, **other)), other
    ledger.append_once(dataclasses.replace(kept, mechanism="n"))
    ledger.append_once(kept)
    assert [row.mechanism for row in ledger.rows("r3")] == ["m", "n"]


def test_rows_cannot_be_changed_or_deleted_through_the_file(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([Row("r1", "set", "spent", LAPLACE)])
    connection = sqlite3.connect(ledger.path)
    for statement in ("UPDATE row SET note='x'", "DELETE FROM row"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def _edit(path, statement):
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER no_update")
    connection.execute("DROP TRIGGER no_delete")
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE row SET note='x' WHERE id=2", "DELETE FROM row WHERE id=2", "UPDATE row SET run_id='r9' WHERE id=1"],
)
def test_an_edit_breaks_the_chain(tmp_path, statement):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([Row("r1", "set", "spent", LAPLACE)] * 3)
    assert len(set(ledger.heads())) == 3
    _edit(ledger.path, statement)
    with pytest.raises(BrokenLedger, match="was edited"):
        ledger.heads()


def test_truncation_shows_against_an_anchored_head(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([Row("r1", "set", "spent", LAPLACE)])
    first = ledger.head()
    ledger.append([Row("r1", "set", "spent", NONE)])
    last = ledger.head()
    ledger.check_holds(first)
    _edit(ledger.path, "DELETE FROM row WHERE id=2")
    assert ledger.head() == first
    with pytest.raises(BrokenLedger, match="cut, rolled back or replaced"):
        ledger.check_holds(last)
    ledger.check_holds(GENESIS)


def test_events_survive_json_and_digests_tell_them_apart():
    for event in (LAPLACE, NONE):
        assert events.from_dict(events.to_dict(event)) == event
    assert events.digest(LAPLACE) != events.digest(LocalRelease("laplace", 8.5, max_images_per_identity=3))
    with pytest.raises(ValueError, match="kind='unheard'"):
        events.from_dict({"kind": "unheard"})


def test_identity_pays_for_every_image_and_release():
    image, identity = statements.price(LocalRelease("laplace", 2.0, releases=4, max_images_per_identity=5))
    assert (image.epsilon, identity.epsilon) == (8.0, 40.0)
    assert (image.delta, image.relation, identity.unit) == (0.0, "replace-one", "identity")
    assert image.meaningful
    assert not identity.meaningful


def test_gaussian_composes_by_the_square_root():
    mu = gaussian.mu_of(4.0, 1e-5)
    image, identity = statements.price(LocalRelease("gaussian", mu, delta=1e-5, max_images_per_identity=9))
    assert image.epsilon == pytest.approx(4.0, rel=1e-6)
    assert identity.epsilon == pytest.approx(gaussian.epsilon_of(3 * mu, 1e-5))
    assert identity.delta == 1e-5


def test_no_guarantee_is_infinite_and_never_a_number():
    (statement,) = statements.price(NONE)
    assert statement.epsilon is None
    assert "epsilon is infinite" in statements.claim(statement)
    assert statements.odds(statement) is None
    assert statement.to_dict()["epsilon"] is None


def test_headline_says_when_there_is_no_meaningful_protection():
    assert "no meaningful image protection" in statements.headline(statements.price(LocalRelease("laplace", 1000.0)))
    assert "no image protection" in statements.headline(statements.price(NONE))
    assert statements.headline(statements.price(LAPLACE)).startswith("image-level epsilon 8 at delta 0 (replace-one)")


def test_odds_follow_the_definition():
    image = statements.price(LocalRelease("laplace", 1.0))[0]
    assert statements.odds(image, 0.01) == pytest.approx(math.e * 0.01)
    assert statements.odds(image, 0.9) == pytest.approx(1 - 0.1 / math.e)
    strong = statements.price(LocalRelease("laplace", 8.0))[0]
    assert statements.odds(strong, 0.01) == pytest.approx(1 - 0.99 * math.exp(-8))


def test_deals_of_one_source_add_and_clients_of_a_deal_do_not():
    """A picture is at one client of a deal; dealing the pictures anew and drawing again is another release."""
    rows = [Row("r1", f"folder-ab/d1/c{n}", "spent", LAPLACE) for n in range(3)]
    rows += [Row("r2", f"folder-ab/d2/c{n}", "spent", LAPLACE) for n in range(3)]
    rows += [Row("r3", "hospital", "spent", LAPLACE)]
    past = Past(rows, ())
    assert past.names() == sorted({row.subject for row in rows} | {"folder-ab"})
    assert len(past.of_source("folder-ab")) == 2
    assert past.history("folder-ab", {}).worst_picture().epsilon() == 16.0
    assert past.history("hospital", {}).worst_picture().epsilon() == 8.0


@pytest.mark.parametrize("name", ["h/w/1", "a/b/c", "faces/2026/clinic", "x-y/z/*", "hospital", "a/b"])
def test_an_owners_name_is_no_share_whatever_slashes_it_has(name):
    """Ledgers of earlier versions may hold such names; shares of one source do not count each other's schedules."""
    assert deal_of(name) == (name, "")
    assert everybody_of(name) is None


def test_what_a_simulation_names_its_shares_is_one():
    share = f"{Federation.of(['protection=none']).data_id}/c0001"
    assert "/".join((*deal_of(share), "c0001")) == share
    assert everybody_of(share) == share.replace("c0001", "*")


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a/b/c", "*", "all*"])
def test_a_name_that_could_be_taken_for_a_share_is_refused(name):
    with pytest.raises(checks.UserError, match=r"Expected data-set=.* without / and \*"):
        checked_name(name, "data-set")
    assert checked_name("clinic 7 - north", "data-set") == "clinic 7 - north"


def test_a_row_for_everybody_of_a_deal_is_everybodys_and_nobody_elses():
    rows = [
        Row("r1", "folder-ab/d1/*", "spent", LAPLACE),
        Row("r1", "folder-ab/d1/c1", "spent", LAPLACE),
        Row("r2", "folder-cd/d1/*", "spent", LAPLACE),
    ]
    past = Past(rows, ())
    totals = {f"folder-ab/d1/c{number}": 8.0 * (1 + (number == 1)) for number in (1, 2, 3)}
    assert {name: past.history(name, {}).worst_picture().epsilon() for name in totals} == totals
    assert past.history("folder-ab", {}).worst_picture().epsilon() == 16.0
    assert past.history("folder-ab/d2/c1", {}).worst_picture().epsilon() == 16.0  # it may have been c1 of d1


def test_pictures_are_chained_too_and_cannot_be_changed_or_cut_unseen(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with ledger.write() as book:
        book.append([Row("r1", "set", "spent", LAPLACE)])
        book.add_content("set", [Held(b"a" * 16), Held(b"b" * 16, b"r")])
        book.add_content("set", [Held(b"b" * 16, b"r"), Held(b"c" * 16, b"s")])
        book.add_content("other", [Held(b"b" * 16)])
    assert ledger.contents() == {"set": {b"a" * 16, b"b" * 16, b"c" * 16}, "other": {b"b" * 16}}
    assert len(set(ledger.content_heads())) == 4
    last = ledger.content_head()
    ledger.check_holds(last)
    connection = sqlite3.connect(ledger.path)
    for statement in ("UPDATE content SET subject='x'", "DELETE FROM content"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.execute("DROP TRIGGER content_no_update")
    connection.execute("DROP TRIGGER content_no_delete")
    connection.execute("DELETE FROM content WHERE id=4")
    connection.commit()
    with pytest.raises(BrokenLedger, match="cut, rolled back or replaced"):
        ledger.check_holds(last)
    for edit in ("subject='other' WHERE id=1", "record=x'01' WHERE id=2"):
        connection.execute("SAVEPOINT before")
        connection.execute(f"UPDATE content SET {edit}")
        connection.commit()
        with pytest.raises(BrokenLedger, match=f"picture {edit[-1]} does not follow"):
            ledger.content_heads()
        connection.execute("UPDATE content SET subject='set', record=CASE id WHEN 1 THEN x'' WHEN 2 THEN 'r' END "
                           "WHERE id < 3")  # fmt: skip
        connection.execute("UPDATE content SET record=CAST('r' AS BLOB) WHERE id=2")
        connection.commit()
        assert len(ledger.content_heads()) == 3
    connection.close()


def test_a_mechanism_is_part_of_the_chain(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([Row("r1", "set", "spent", LAPLACE, mechanism="m1"), Row("r1", "set", "spent", NONE)])
    assert [row.mechanism for row in ledger.rows()] == ["m1", ""]
    _edit(ledger.path, "UPDATE row SET mechanism='m2' WHERE id=1")
    with pytest.raises(BrokenLedger, match="row 1"):
        ledger.head()


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([Row("r1", "set", "spent", LAPLACE)])

    def fail():
        with ledger.write() as book:
            book.append([Row("r2", "set", "spent", LAPLACE)])
            book.add_content("set", [Held(b"a")])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(ledger.rows()) == 1
    assert ledger.contents() == {}


def test_a_file_of_an_older_version_is_read_continued_and_its_chain_holds(tmp_path):
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE row (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, run_id TEXT NOT NULL, "
        "subject TEXT NOT NULL, status TEXT NOT NULL, event TEXT NOT NULL, digest TEXT NOT NULL, note TEXT NOT NULL, "
        "hash TEXT NOT NULL)"
    )
    fields = ("2026-01-02T03:04:05", "r0", "set", "spent", json.dumps(events.to_dict(LAPLACE)), "")
    head = hashlib.sha256((GENESIS + json.dumps(fields)).encode()).hexdigest()
    columns = "(at, run_id, subject, status, event, note, digest, hash)"
    values = (*fields, events.digest(LAPLACE), head)
    connection.execute(f"INSERT INTO row {columns} VALUES (?,?,?,?,?,?,?,?)", values)
    connection.commit()
    connection.close()
    ledger = Ledger(path)
    assert ledger.heads() == [head]
    ledger.append([Row("r1", "set", "spent", NONE, mechanism="m")])
    assert [row.event for row in ledger.rows()] == [LAPLACE, NONE]
    ledger.check_holds(head)
