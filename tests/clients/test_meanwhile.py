"""What is done meanwhile or remembered to make a visit cheap changes no promise: nothing leaves before it is booked."""

from __future__ import annotations

import errno
import os
import threading
import time

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

import fedveil
from fedveil import checks, runs
from fedveil.commands import simulate
from fedveil.engine import _flower, arrays
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.instruction import BadInstruction
from fedveil.federation.tensors import get_tensors
from fedveil.privacy.ledger import Book, Ledger
from fedveil_clients import app as client_app
from fedveil_clients import booking, private_training, received, sites, training, vault_folder
from fedveil_clients.policy import node_of
from fedveil_clients.vault import Vault

SMALL = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4",
    "model.width=8", "model.embedding=16", "train.clients=3", "train.local.steps=2", "train.batch_size=6",
)  # fmt: skip


@pytest.fixture
def federation(tmp_path):
    client_app._site.cache_clear()
    return Federation.of([*SMALL, "protection=none", f"vault.root={tmp_path / 'vault'}"])


def ask(federation, number=1):
    _flower.identify()
    told = {"config": instruction.to_wire(federation.settings), "run_id": "run", "version": fedveil.__version__}
    content = RecordDict(
        {
            "instruction": ConfigRecord({**told, "round": number}),
            "tensors": arrays.record(get_tensors(federation.backbone()), local=True),
            "state": arrays.record({}, local=True),
        }
    )
    message = Message(content, dst_node_id=2, message_type="train")
    _flower.number(message, "m1")
    settings = _flower.Settings(3, {}, simulate.node_words(federation.settings))
    return client_app.app(message, _flower.client_context(settings, 2))


def test_a_client_trains_while_its_rows_are_written_and_answers_when_they_are_on_disk(
    federation, tmp_path, monkeypatch
):
    trained, written, answers = threading.Event(), threading.Event(), []
    train, append = training.train_round, Book.append

    def noted(*given, **words):
        found = train(*given, **words)
        trained.set()
        return found

    def held_up(self, rows):
        assert written.wait(60)
        append(self, rows)

    monkeypatch.setattr(training, "train_round", noted)
    monkeypatch.setattr(Book, "append", held_up)
    asking = threading.Thread(target=lambda: answers.append(ask(federation)))
    asking.start()
    assert trained.wait(60)
    asking.join(0.3)
    ledger = Ledger(tmp_path / "vault" / "ledger.sqlite")
    assert asking.is_alive()
    assert answers == []
    written.set()
    asking.join(60)
    assert sorted(answers[0].content) == ["reply", "update"]
    assert [(row.run_id, row.status) for row in ledger.rows()] == [("run", "spent")]


def test_private_steps_wait_for_their_rows(tmp_path, monkeypatch):
    """They draw coins and noise, so what pays for them is on disk before the first of them."""
    client_app._site.cache_clear()
    words = ("privacy.image.noise_multiplier=1", "privacy.image.rows=8", f"vault.root={tmp_path / 'vault'}")
    private = Federation.of([*SMALL, "protection=none", *words])
    ledger, before = Ledger(tmp_path / "vault" / "ledger.sqlite"), []
    train, append = private_training.train_round, Book.append

    def noted(*given, **words):
        before.append([row.status for row in ledger.rows()])
        return train(*given, **words)

    def slowly(self, rows):
        time.sleep(0.3)
        append(self, rows)

    monkeypatch.setattr(private_training, "train_round", noted)
    monkeypatch.setattr(Book, "append", slowly)
    assert sorted(ask(private).content) == ["reply", "update"]
    assert before == [["reserved"]]


def test_a_vault_whose_first_rows_are_on_their_way_is_no_vault_without_a_ledger(federation, tmp_path, monkeypatch):
    """Else whoever is killed in that moment could never go on, and another process would refuse its client."""
    trained = threading.Event()
    train, run = training.train_round, booking.Booking._run

    def looked(*given, **words):
        vault_folder.inspect(tmp_path / "vault")
        trained.set()
        return train(*given, **words)

    def late(self, write):
        assert trained.wait(60)
        run(self, write)

    monkeypatch.setattr(training, "train_round", looked)
    monkeypatch.setattr(booking.Booking, "_run", late)
    assert sorted(ask(federation).content) == ["reply", "update"]


def test_a_client_whose_rows_cannot_be_written_gives_nothing_and_is_opened_again(federation, tmp_path, monkeypatch):
    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "ledger.sqlite"))

    with monkeypatch.context() as patch:
        patch.setattr(Book, "append", full)
        refused = ask(federation)
    assert sorted(refused.content) == ["refusal"]
    assert "No space left" in refused.content["refusal"]["reason"]
    vault = Vault(tmp_path / "vault")
    assert vault.ledger.rows() == []
    assert sorted(ask(federation).content) == ["reply", "update"]
    assert [row.status for row in vault.ledger.rows()] == ["spent"]


def test_formal_noise_is_drawn_after_its_rows_are_on_disk(tmp_path, monkeypatch):
    """There nothing is done meanwhile."""
    client_app._site.cache_clear()
    words = ("protection.fit_steps=0", "protection.init=zeros", f"vault.root={tmp_path / 'vault'}")
    federation = Federation.of([*SMALL, *words])
    public = federation.split.public
    state = federation.protection.fit(public.images(), public.labels, 1)
    seen = []
    release = type(federation.protection).release

    def looked(self, images, given, streams):
        seen.append(len(Ledger(tmp_path / "vault" / "ledger.sqlite").rows()))
        return release(self, images, given, streams)

    append = Book.append

    def late(self, rows):
        time.sleep(0.5)  # long enough for a draw that does not wait
        append(self, rows)

    monkeypatch.setattr(Book, "append", late)
    monkeypatch.setattr(type(federation.protection), "release", looked)
    node = node_of("c0002", {**simulate.node_words(federation.settings), "data-set": "mine"}, "")
    site = sites.open_site(federation, "run", "c0002", node, state)
    assert seen
    assert min(seen) == 1
    site.booked.on_disk()


def test_the_last_round_is_the_last_line_and_a_line_cut_short_is_damage(tmp_path):
    vault = Vault(tmp_path)
    for number, sent in ((1, "a" * 64), (2, "b" * 64), (2, "b" * 64), (5, "c" * 64)):
        vault.in_order("run", "c1", number, sent)
        vault.begin("run", "c1", number, sent, durable=False)
    vault.in_order("run", "c1", 5, "c" * 64)
    for number, sent in ((4, "d" * 64), (5, "d" * 64), (2, "b" * 64)):
        with pytest.raises(BadInstruction, match=f"Round {number}"):
            vault.in_order("run", "c1", number, sent)
    path = tmp_path / "heads" / "run" / "c1" / "last"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes() + b"\0\0\0")
    with pytest.raises(checks.UserError, match="is damaged"):
        vault.in_order("run", "c1", 6, "e" * 64)


@pytest.mark.parametrize("how", ["replaced", "rewritten"])
def test_class_centres_are_what_the_file_holds_whoever_wrote_it_last(tmp_path, how):
    """A worker remembers what it wrote itself; another one may have had the client since."""
    heads = Vault(tmp_path).heads("run", "c1")
    heads.save(1, np.full((2, 3), 1, np.float32))
    mine = heads.before(2)
    mine[...] = 9  # a copy
    assert heads.before(2)[0, 0] == 1
    path, data = heads.folder / "r000001.npz", runs.pack({"centres": np.full((2, 3), 4, np.float32)}, {"round": 1})
    if how == "replaced":
        (tmp_path / "new").write_bytes(data)
        os.replace(tmp_path / "new", path)
    else:
        path.write_bytes(data)
    assert heads.before(2)[0, 0] == 4


def test_a_process_knows_contents_by_value_where_rounds_share_them_and_by_round_where_not():
    one, two = (arrays.record({"w": np.arange(3, dtype=np.float32)}, local=True) for _ in range(2))
    other = arrays.record({"w": np.arange(1, 4, dtype=np.float32)}, local=True)
    lasting = [received.Content(record, lasting=True) for record in (one, two, other)]
    assert lasting[0] == lasting[1] != lasting[2]
    assert hash(lasting[0]) == hash(lasting[1])
    passing = [received.Content(record) for record in (one, one, two)]
    assert passing[0] == passing[1] != passing[2]
