"""Append-only rows that survive, in order; statements say unit, relation, delta and view together."""

import math
import sqlite3

import pytest

from fedveil.privacy import events, gaussian, statements
from fedveil.privacy.events import LocalRelease, NonPrivate
from fedveil.privacy.ledger import GENESIS, BrokenLedger, Ledger, Row, by_source

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
    assert statement.metric_name is None
    assert "epsilon is infinite" in statements.claim(statement)
    assert statements.odds(statement) is None
    assert statement.to_dict()["epsilon"] is None


def test_headline_says_when_there_is_no_meaningful_protection():
    assert "no meaningful image protection" in statements.headline(statements.price(LocalRelease("laplace", 1000.0)))
    assert "no image protection" in statements.headline(statements.price(NONE))
    assert statements.headline(statements.price(LAPLACE)).startswith("image-level epsilon 8 at delta 0 (replace-one)")


def test_metric_names_carry_unit_relation_delta_and_view():
    name = statements.price(LAPLACE)[0].metric_name
    assert name == "epsilon.image.replace-one.delta-0.noisy-copies"


def test_odds_follow_the_definition():
    image = statements.price(LocalRelease("laplace", 1.0))[0]
    assert statements.odds(image, 0.01) == pytest.approx(math.e * 0.01)
    assert statements.odds(image, 0.9) == pytest.approx(1 - 0.1 / math.e)
    strong = statements.price(LocalRelease("laplace", 8.0))[0]
    assert statements.odds(strong, 0.01) == pytest.approx(1 - 0.99 * math.exp(-8))


def test_deals_of_one_source_add_and_clients_of_a_deal_do_not():
    """A picture is at one client of a deal; dealing the pictures anew and drawing again is another release."""
    rows = [Row("r1", f"folder-ab/deal1/c{n}", "spent", LAPLACE) for n in range(3)]
    rows += [Row("r2", f"folder-ab/deal2/c{n}", "spent", LAPLACE) for n in range(3)]
    rows += [Row("r3", "hospital", "spent", LAPLACE)]
    merged = by_source(rows, lambda mine: float(len(mine)))
    assert {name: len(mine) for name, mine in merged.items()} == {"folder-ab": 2, "hospital": 1}
