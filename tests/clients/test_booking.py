"""Accepting a run: everything booked at once, limits over runs that hold, pictures that keep their past."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading

import numpy as np
import pytest
from scipy import optimize

from fedveil import cli, config
from fedveil.commands.ledger import report as ledger_report
from fedveil.configuration.schema import Policy
from fedveil.federation.federation import Federation
from fedveil.privacy import ledger as ledgers
from fedveil.privacy.events import LocalRelease, NonPrivate
from fedveil.privacy.ledger import deal_of
from fedveil_clients import booking, policy
from fedveil_clients.memo import Listed
from fedveil_clients.policy import Node, PolicyRefusal
from fedveil_clients.vault import Vault

EIGHT, FIVE = LocalRelease("laplace", 8.0), LocalRelease("laplace", 5.0)
BARE = NonPrivate("image", "everything", "no protection")
CLIENT = ("protection=none", "privacy.client.epsilon=4", "privacy.client.delta=1e-5", "train.cohort.rate=1.0",
          "privacy.client.clip=0.5", "train.rounds=10")  # fmt: skip
SHARED = {"simulated": True}  # words of a simulation's node
PICTURES = [hashlib.sha256(bytes([n])).digest() for n in range(9)]


def federation_of(*words):
    return Federation.of(["tracking=none", "train.clients=5", *words])


def held_by(vault, name, held, names=None):
    """The pictures `held`, as the records `names` of the data set; by default each under its own number."""
    source, contents = deal_of(name)[0], [PICTURES[number] for number in held]
    return vault.held(Listed(source, [str(one) for one in names or held], contents), (32, 32), contents)


@pytest.fixture
def owner(tmp_path):
    """Return a function that accepts a run of one data set, and gives its vault."""
    vault = Vault(tmp_path / "vault")

    def accept(
        run, name, event=EIGHT, held=(0, 1, 2), words=(), mechanism=None, client="c0001", names=None, again=False,
        **limits,
    ):  # fmt: skip
        node = Node(name, policy=Policy(None, None, **limits) if limits else None)
        kind = repr(event).encode() if mechanism is None else mechanism
        joining = booking.Joining(client, node, event, kind, held_by(vault, name, held, names), again)
        booking.accept(federation_of(*words), run, vault, joining).on_disk()
        return vault

    return accept


def total(vault, name, unit="image"):
    found = ledger_report.of_owner(vault.root, name, Policy(None, None))["statements"]
    return next((claim["epsilon"] for claim in found if claim["unit"] == unit), 0.0)


# Reservation at acceptance


def test_a_client_that_joins_no_round_is_reserved_and_rows_tell_nothing_of_who_did(owner, tmp_path):
    federation = federation_of(*CLIENT)
    share = federation.data_id
    tables = []
    for vault_name, opened in (("a", ["c0002"]), ("b", ["c0004", "c0001", "c0005"])):
        vault = Vault(tmp_path / vault_name)
        for number, client in enumerate(opened):
            node = policy.node_of(client, SHARED, share)
            accept(federation, "run", client, node, vault, held_by(vault, node.data_set, [number]))
        rows = vault.ledger.rows()
        tables.append([(row.run_id, row.subject, row.status, row.event, row.note, row.mechanism) for row in rows])
    assert tables[0] == tables[1]
    assert {(row[1], row[2]) for row in tables[0]} == {(f"{share}/*", status) for status in ("reserved", "spent")}
    names = [f"{share}/c000{number}" for number in range(1, 6)]
    assert len({total(vault, name, "client") for name in names}) == 1
    assert total(vault, names[0], "client") > 3.9
    assert {row[3] for row in tables[0] if row[2] == "reserved"} == {federation.whole_schedule}


def accept(federation, run, client, node, vault, held=()):
    booking.accept(federation, run, vault, booking.Joining(client, node, BARE, b"", held)).on_disk()


def test_nodes_with_a_data_set_or_vault_of_their_own_speak_for_themselves():
    federation = federation_of()
    share = federation.data_id
    assert policy.everybody(federation, "c0002", policy.node_of("c0002", SHARED, share)) == f"{share}/*"
    for words in ({"data-set": "clinic", **SHARED}, {"vault-root": "here"}, {"data-root": "there"}, {}):
        node = policy.node_of("c0002", words, share)
        assert policy.everybody(federation, "c0002", node) is None


def test_a_million_clients_are_reserved_in_one_row(tmp_path):
    words = ("train.clients=1000000", "data.identities=2000000", "privacy.client.delta=1e-7")
    federation = federation_of(*CLIENT, *words)
    node = policy.node_of("c0007", SHARED, federation.data_id)
    vault = Vault(tmp_path)
    for _ in range(3):
        accept(federation, "run", "c0007", node, vault)
    assert [row.status for row in vault.ledger.rows()] == ["reserved", "spent"]
    assert 3.5 < total(vault, f"{federation.data_id}/c1000000", "client") < 4  # at the owner's own delta


def test_another_attempt_of_a_run_books_nothing_more_unless_it_draws_again(owner):
    for _ in range(3):
        vault = owner("run", "set", words=CLIENT)
    assert len(vault.ledger.rows()) == 2
    fresh = dataclasses.replace(EIGHT, releases=4)
    for _ in range(3):
        owner("fresh", "set", fresh)
    assert sum(row.run_id == "fresh" for row in vault.ledger.rows()) == 3


def test_another_mechanism_under_an_equal_event_is_another_row_of_the_same_run(owner):
    """An event says what a draw costs; settings and state that it does not show make another draw all the same."""
    for kind in (b"one state", b"another state", b"one state"):
        vault = owner("run", "set", EIGHT, mechanism=kind)
    rows = vault.ledger.rows()
    assert [row.status for row in rows] == ["spent", "spent"]
    assert len({row.mechanism for row in rows}) == 2
    assert total(vault, "set") == 16.0
    with pytest.raises(PolicyRefusal, match="this run would make it 24"):
        owner("run", "set", EIGHT, mechanism=b"a third", max_total_epsilon=16.0)


@pytest.mark.parametrize("first", ["real", "fixed"])
def test_fixed_noise_is_a_draw_of_its_own_whatever_the_owner_has_drawn_before(owner, first):
    fixed = ("privacy.test_seed=1",)
    for words in ((), fixed) if first == "real" else (fixed, ()):
        vault = owner("run", "set", EIGHT, mechanism=b"m", words=words)
    rows = vault.ledger.rows()
    assert [row.status for row in rows] == ["spent", "spent"]
    assert len({row.mechanism for row in rows}) == 2
    assert sorted("NOT PRIVATE" in row.note for row in rows) == [False, True]
    assert total(vault, "set") is None


def test_a_row_of_an_older_ledger_is_no_draw_that_a_run_could_read_again(owner):
    """It does not say of which mechanism it was: the run is booked once more, which is never too little."""
    vault = owner("before", "other", held=(8,))
    vault.ledger.append([ledgers.Row("run", "set", "spent", EIGHT)])
    owner("run", "set", EIGHT)
    assert [row.status for row in vault.ledger.rows("run")] == ["spent", "spent"]
    assert total(vault, "set") == 16.0


# Pictures keep their past


def test_renaming_a_data_set_does_not_reset_what_it_spent(owner):
    owner("r1", "old", EIGHT)
    vault = owner("r2", "new", FIVE)
    assert total(vault, "new") == 13.0
    text = ledger_report.text(ledger_report.of_owner(vault.root, "new", Policy(None, None)))
    assert "includes 1 row of 'old', which shares 3 pictures" in text


def test_the_same_mechanism_under_another_name_of_the_set_is_another_draw_of_every_picture(owner):
    owner("r1", "old", EIGHT)
    vault = owner("r2", "new", EIGHT)
    assert total(vault, "new") == 16.0
    vault = owner("r3", "new", EIGHT)  # its own copies, read again
    assert total(vault, "new") == 16.0


def test_a_record_that_shows_something_else_now_is_drawn_again_and_pays_again(owner):
    vault = owner("r1", "set", EIGHT, held=(0, 1))
    assert total(vault, "set") == 8.0
    owner("r2", "set", EIGHT, held=(5, 1), names=(0, 1))  # picture 5 lies where picture 0 lay
    assert total(vault, "set") == 16.0


def test_a_picture_that_is_renamed_or_stored_twice_is_drawn_twice_and_pays_twice(owner):
    vault = owner("r1", "set", EIGHT, held=(0, 1))
    owner("r2", "set", EIGHT, held=(0, 1), names=("moved", 1))
    assert total(vault, "set") == 16.0
    owner("r3", "other", FIVE, held=(3, 3, 4), names=("a", "b", "c"))
    assert total(vault, "other") == 10.0


def test_a_picture_that_changes_in_the_middle_of_a_run_is_refused_and_nothing_is_written(owner):
    vault = owner("run", "set", EIGHT, held=(0, 1))
    before = vault.ledger.path.read_bytes()
    with pytest.raises(PolicyRefusal, match="1 pictures are others than when this run began"):
        owner("run", "set", EIGHT, held=(5, 1), names=(0, 1), again=True)
    assert vault.ledger.path.read_bytes() == before
    owner("run", "set", EIGHT, held=(0, 1, 2), again=True)  # new records are drawn for the first time


def test_a_set_that_grows_or_shrinks_keeps_its_past_and_pays_nothing_twice(owner):
    owner("r1", "set", EIGHT, held=(0, 1))
    vault = owner("r2", "set", EIGHT, held=(0, 1, 2))
    assert [row.status for row in vault.ledger.rows()] == ["spent", "spent"]
    assert total(vault, "set") == 8.0
    owner("r3", "set", FIVE, held=(2,))
    assert total(vault, "set") == 13.0
    owner("r4", "set", EIGHT, held=(0,))
    assert vault.ledger.rows()[-1].status == "reused"
    assert total(vault, "set") == 13.0


def test_a_disjoint_set_starts_at_zero(owner):
    owner("r1", "one", EIGHT, held=(0, 1))
    vault = owner("r2", "two", FIVE, held=(2, 3))
    assert total(vault, "two") == 5.0


def test_only_the_worst_picture_counts(owner):
    """Two earlier sets that share different pictures with this one do not add."""
    owner("r1", "one", EIGHT, held=(0,))
    owner("r2", "two", EIGHT, held=(1,), mechanism=b"another")
    vault = owner("r3", "both", FIVE, held=(0, 1))
    assert total(vault, "both") == 13.0


def test_a_lost_overlap_is_caught(owner, monkeypatch):
    """The mutant that does not look at pictures resets the total on renaming."""
    owner("r1", "old", EIGHT)
    vault = owner("r2", "new", FIVE)
    monkeypatch.setattr(ledgers.Ledger, "contents", lambda self: {})
    assert total(vault, "new") == 5.0


def test_a_schedule_carries_over_with_any_overlap_and_two_at_once_are_a_group(owner):
    vault = owner("r1", "old", BARE, held=(0,), words=CLIENT)
    alone = total(vault, "old", "client")
    owner("r2", "new", BARE, held=(0, 1), words=CLIENT)
    twice = total(vault, "new", "client")
    assert twice > 1.3 * alone
    owner("r3", "left", BARE, held=(5,), words=CLIENT)
    owner("r3", "right", BARE, held=(6,), words=CLIENT)
    owner("r4", "across", BARE, held=(5, 6))
    together = total(vault, "across", "client")  # both change in one run: twice the shift, not two runs
    assert together > 1.2 * twice


def test_the_ledger_tells_no_picture(owner, tmp_path):
    vault = owner("r1", "set")
    stored = vault.ledger.path.read_bytes()
    for content in PICTURES[:3]:
        assert content not in stored
        assert content[:16] not in stored
    mine, theirs = (held_by(one, "set", range(9)) for one in (vault, Vault(tmp_path / "other")))
    assert {one.picture for one in mine}.isdisjoint(one.picture for one in theirs)
    assert {one.record for one in mine}.isdisjoint(one.record for one in theirs)


# Limits over runs


def closed_form(noise_multiplier, steps, delta):
    """Epsilon of Gaussians at zero-out by the best order, from the definition (Canonne et al. 2020, prop. 12)."""

    def at(log_order):
        order = 1 + np.exp(log_order)
        divergence = order * steps / (2 * noise_multiplier**2)
        return divergence + np.log1p(-1 / order) - np.log(delta * order) / (order - 1)

    return float(optimize.minimize_scalar(at, bounds=(-4, 6), method="bounded").fun)


@pytest.mark.parametrize("fits", [1, 2, 4])
def test_the_filter_refuses_exactly_the_schedule_that_would_exceed(owner, fits):
    noise = federation_of(*CLIENT).settings.privacy.client.noise_multiplier
    below, above = (closed_form(noise, 10 * count, 1e-5) for count in (fits, fits + 1))
    limit = below * 1.002 if fits > 1 else 0.5 * (below + above)
    for number in range(fits):
        owner(f"r{number}", "set", BARE, words=CLIENT, max_client_epsilon=limit)
    before = owner("r0", "set", BARE, words=CLIENT, max_client_epsilon=limit).ledger.rows()
    with pytest.raises(PolicyRefusal, match=f"at most {limit:g} at delta 1e-05"):
        owner("more", "set", BARE, words=CLIENT, max_client_epsilon=limit)
    vault = owner("r0", "set", BARE, words=CLIENT, max_client_epsilon=limit)
    assert vault.ledger.rows() == before
    enough = above * 1.002
    owner("more", "set", BARE, words=CLIENT, max_client_epsilon=enough)


def test_a_limit_of_exactly_the_planned_epsilon_allows_the_one_run(owner):
    owner("r0", "set", BARE, words=CLIENT, max_client_epsilon=4.0)
    with pytest.raises(PolicyRefusal, match="Plan more noise"):
        owner("r1", "set", BARE, words=CLIENT, max_client_epsilon=4.0)
    for name, held in (("other", (7,)), ("set", (0, 1, 2))):  # what an earlier run reserved covers nothing of this one
        with pytest.raises(PolicyRefusal, match="no client-level guarantee"):
            owner("r2", name, EIGHT, held=held, max_client_epsilon=4.0)
    with pytest.raises(PolicyRefusal, match="no client-level guarantee"):  # r0's schedule is not r3's
        owner("r3", "set", EIGHT, max_client_epsilon=50.0)


def test_image_totals_are_limited_over_runs_and_a_refusal_writes_nothing(owner):
    vault = owner("r1", "set", EIGHT, max_total_epsilon=13.0)
    owner("r2", "set", FIVE, max_total_epsilon=13.0)
    before = vault.ledger.path.read_bytes()
    with pytest.raises(PolicyRefusal, match="13 is spent and this run would make it 21"):
        owner(
            "r3", "new name", dataclasses.replace(EIGHT, delta=0.0), held=(2, 3), mechanism=b"x", max_total_epsilon=13
        )
    assert vault.ledger.path.read_bytes() == before
    owner("r4", "set", EIGHT, max_total_epsilon=13.0)  # kept copies, read again
    owner("r5", "disjoint", EIGHT, held=(6,), max_total_epsilon=13.0)
    with pytest.raises(PolicyRefusal, match="no finite amount"):
        owner("r6", "set", BARE, max_total_epsilon=13.0)


def test_a_simulations_registry_is_limited_client_by_client(tmp_path):
    federation = federation_of(*CLIENT, "policy.max_client_epsilon=4.5")
    share, vault = federation.data_id, Vault(tmp_path)
    heavy = Federation(dataclasses.replace(federation.settings, policy=Policy(None, None)))
    one = Node(f"{share}/c0003", vault_root=str(tmp_path))
    accept(heavy, "before", "c0003", one, vault)
    accept(federation, "run", "c0001", policy.node_of("c0001", SHARED, share), vault)
    assert {row.subject for row in vault.ledger.rows("run")} == {f"{share}/*"}
    for _ in range(2):  # what the first one booked for all is no acceptance of this one
        with pytest.raises(PolicyRefusal):
            accept(federation, "run", "c0003", policy.node_of("c0003", SHARED, share), vault)
    accept(federation, "run", "c0002", policy.node_of("c0002", SHARED, share), vault)


def race(owner, monkeypatch):
    """Return how many of two runs that are accepted at the same moment pass where one fits."""
    meet, passed = threading.Barrier(2, timeout=0.5), []
    check = policy.check_runs

    def slowly(*arguments):
        check(*arguments)
        with contextlib.suppress(threading.BrokenBarrierError):
            meet.wait()

    monkeypatch.setattr(policy, "check_runs", slowly)

    def accept(run, event):
        with contextlib.suppress(PolicyRefusal):
            owner(run, "set", event, max_total_epsilon=10.0)
            passed.append(run)

    owner("first", "set", LocalRelease("laplace", 1.0))
    workers = [threading.Thread(target=accept, args=pair) for pair in (("a", EIGHT), ("b", FIVE))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(passed)


def test_two_runs_accepted_at_once_cannot_both_pass(owner, monkeypatch):
    assert race(owner, monkeypatch) == 1


def test_checking_before_the_transaction_is_caught(owner, monkeypatch):
    @contextlib.contextmanager
    def without(self):
        with self._open() as connection:
            book = ledgers.Book(connection)
            monkeypatch.setattr(book, "add_content", lambda *_: None)
            yield book

    vault = owner("zero", "other", held=(8,))
    vault.owner_key()
    monkeypatch.setattr(ledgers.Ledger, "write", without)
    assert race(owner, monkeypatch) == 2


def test_node_words_and_configuration_carry_the_limits():
    words = {"max-total-epsilon": 20, "max-client-epsilon": "8", "client-delta": 1e-6}
    assert policy.node_of("c1", words, "folder").policy == Policy(None, None, 20.0, 8.0, 1e-6)
    loaded = config.load(["policy.max_total_epsilon=20", "policy.image_delta=1e-6"]).policy
    assert (loaded.max_total_epsilon, loaded.max_client_epsilon, loaded.image_delta) == (20.0, None, 1e-6)
    for word in ("policy.max_client_epsilon=-1", "policy.client_delta=1"):
        with pytest.raises(ValueError, match=word.split("=")[0].split(".")[1]):
            config.load([word])


def test_a_simulation_is_refused_when_the_total_is_reached(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["tracking=none", "engine=inline", "train.rounds=1", "train.clients=2", "train.local.steps=1",
             "protection.fit_steps=0", "protection.init=zeros", "evaluation.draws=1", "evaluation.bootstrap=0",
             "data.identities=4", "data.images_per_identity=2", "data.evaluation_identities=4", "data.pairs=8",
             "data.evaluation_images=2", "data.public_identities=2", "data.public_images=2", "model.width=8",
             "model.embedding=16", "policy.max_total_epsilon=10"]  # fmt: skip
    for more, status in ((["seed=1"], 0), (["train.rounds=2"], 0), (["protection.total_epsilon=5"], 2)):
        assert cli.main(["simulate", *words, "protection.total_epsilon=8", *more, "--plain"]) == status
    assert "8 is spent and this run would make it 13" in " ".join(capsys.readouterr().err.split())
    rows = Vault(tmp_path / ".fedveil/vault").ledger.rows()
    assert {row.event.diameter for row in rows} == {8.0}
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 2  # no unprotected reference


# Rounds of private steps that are asked again


def test_a_round_again_is_held_to_the_limit_on_one_run(tmp_path):
    """Without it a coordinator would ask one round again and again, and average the noise away."""
    federation = federation_of("protection=none", "privacy.image.epsilon=4", "train.rounds=20")
    vault = Vault(tmp_path / "vault")
    node = Node("set", policy=Policy(None, 6.0))
    client = booking.Joining("c0001", node, BARE, b"", held_by(vault, "set", (0, 1)))
    booking.accept(federation, "run", vault, client).on_disk()
    with pytest.raises(PolicyRefusal, match="asked again"):
        [booking.repeated(federation, "run", vault, client, 1) for _ in range(50)]
    reserved, *spent = (row.status for row in vault.ledger.rows())  # what is refused is not written
    assert reserved == "reserved"
    assert 0 < len(spent) < 50
    assert set(spent) == {"spent"}
    other = dataclasses.replace(client, node=Node("set"))
    booking.repeated(federation, "run", vault, other, 1)  # an owner without limits


def test_a_round_again_is_held_to_the_limit_over_runs(tmp_path):
    federation = federation_of("protection=none", "privacy.image.epsilon=4", "train.rounds=4")
    vault = Vault(tmp_path / "vault")
    node = Node("set", policy=Policy(None, None, 5.0))
    client = booking.Joining("c0001", node, BARE, b"", held_by(vault, "set", (0,)))
    booking.accept(federation, "run", vault, client).on_disk()
    with pytest.raises(PolicyRefusal, match="over all runs"):
        [booking.repeated(federation, "run", vault, client, 2) for _ in range(50)]
