"""Engines: equal results wherever the apps run, failures stay with their client, no process is left."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import flwr
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedveil import checks, engine, randomness, records
from fedveil.commands import simulate
from fedveil.configuration.schema import Engine
from fedveil.engine import _flower
from fedveil.engine.inline import InlineGrid
from fedveil.engine.pool import PoolGrid
from fedveil.federation import training
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil_strategies import cohorts, observers

KINDS = [InlineGrid, PoolGrid]
SMALL = (
    "tracking=none", "evaluation.reference=false", "data.identities=9", "data.images_per_identity=4",
    "data.evaluation_identities=6", "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4",
    "data.public_images=4", "model.width=8", "model.embedding=16", "train.clients=4",
    "train.rounds=2", "train.local.steps=2", "train.batch_size=6", "evaluation.draws=1", "evaluation.bootstrap=0",
)  # fmt: skip

QUICK_DCTDP = ("protection.fit_steps=0", "protection.init=zeros")
RECIPE = ("protection=none", "train.schedule.kind=cosine", "train.augment.flip=true", "train.augment.crop=0.1",
          "train.augment.jitter=0.1", "train.class_share=0.6", "train.proximal=0.1", "train.correction=scaffold",
          "train.cohort.rate=0.8", "aggregation=fedyogi", "evaluation.flip=always", "train.rounds=3")  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(observers, "draw", lambda *_: [])  # pictures cost more than these runs
    yield
    torch.set_num_threads(threads)
    assert multiprocessing.active_children() == []


@pytest.fixture
def grid_of():
    opened = []

    def build(kind, app, clients=4, workers=2, wire=False):
        opened.append(kind(app, _flower.Settings(clients, {"a": 1}, {"b": 2}, workers, wire)))
        return opened[-1]

    yield build
    for grid in opened:
        grid.close()


def questions(grid, content=None, kind="train"):
    shared = content or RecordDict({"tensors": ArrayRecord({"w": Array(np.arange(3, dtype=np.float32))})})
    return [Message(shared, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()]


def by_node(grid, messages):
    return {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages)}


def describe(message, context):
    """Answer with everything that a client sees of itself."""
    total = message.content.array_records["tensors"]["w"].numpy() + context.node_id
    place = context.node_config
    facts = {
        "node": context.node_id, "part": place["partition-id"], "of": place["num-partitions"], "own": place["b"],
        "run": context.run_config["a"], "pid": os.getpid(), "kind": message.metadata.message_type,
    }  # fmt: skip
    return Message(RecordDict({"sum": ArrayRecord({"w": Array(total)}), "f": ConfigRecord(facts)}), reply_to=message)


# --- whole runs


ON_GRID = ("privacy.noise=grid", "privacy.client.noise_multiplier=1", "privacy.client.quantile=0.5")


@pytest.mark.parametrize(
    "words",
    [
        (*QUICK_DCTDP, "privacy.test_seed=7"), ("protection=none",), RECIPE,
        (*QUICK_DCTDP, *ON_GRID, "privacy.test_seed=7"),
    ],
)  # fmt: skip
def test_all_engines_give_equal_models(tmp_path, monkeypatch, words):
    found = []
    for place in ("engine=inline", "engine=inline engine.wire=true", "engine=pool engine.workers=2"):
        folder = tmp_path / place.replace(" ", "-")
        folder.mkdir()
        monkeypatch.chdir(folder)  # a vault and a run store of its own
        found.append(simulate.simulate(Federation.of([*SMALL, *words, *place.split()]), "run", "quiet"))
    assert len({result["model_sha256"] for result in found}) == 1
    assert len({json.dumps(result["final"]) for result in found}) == 1


def by_hand(federation):
    """The same recipe in one loop with nothing around it: no messages, sites, vaults or ledgers."""
    settings, recipe = federation.settings, federation.settings.train
    network, heads = federation.backbone(), {}
    own = dict(network.named_parameters())
    current = get_tensors(network)
    for number in range(1, recipe.rounds + 1):
        coins = cohorts.public_words(settings.seed, number)
        total = {name: np.zeros(value.shape) for name, value in current.items()}
        for client in cohorts.draw(recipe.cohort, federation.registry, coins):
            faces = federation.faces_of(client)
            _, labels = np.unique(faces.labels, return_inverse=True)
            fed = (torch.from_numpy(faces.images()).float() - 127.5) / 127.5
            if client not in heads:
                generator = randomness.public_torch(settings.seed, "head", client)
                heads[client] = training.head_init(labels.max() + 1, 16, generator)
            set_tensors(network, current)
            steps = recipe.local.steps
            order = training.batch_indices(
                len(labels), recipe.batch_size, settings.seed, "batches", client,
                start_step=(number - 1) * steps, steps=steps,
            )  # fmt: skip
            batches = ((fed[index], torch.from_numpy(labels)[index]) for index in map(torch.from_numpy, order))
            training.local_sgd(
                network, heads[client], federation.head, batches, recipe.lr, weight_decay=recipe.weight_decay,
                centre_lr=recipe.head_lr,
            )  # fmt: skip
            for name, sums in total.items():
                sums += own[name].detach().numpy() - current[name]
        expected = cohorts.expected_size(recipe.cohort, recipe.clients)
        current = {name: (value + total[name] / expected).astype(np.float32) for name, value in current.items()}
    return records.model_sha256(current)


def test_the_pool_computes_what_a_bare_loop_computes_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("protection=none", "aggregation=fedavg", "train.cohort.rate=0.7", "train.clients=6", "train.rounds=3")
    federation = Federation.of([*SMALL, "data.identities=14", *words, "engine=pool", "engine.workers=3"])
    torch.set_num_threads(1)
    assert simulate.simulate(federation, "run", "quiet")["model_sha256"] == by_hand(federation)


# --- what a client sees and answers


@pytest.mark.parametrize("wire", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_node_is_asked_once_with_its_own_context(grid_of, kind, wire):
    grid = grid_of(kind, describe, wire=wire)
    assert list(grid.get_node_ids()) == [1, 2, 3, 4]
    for _ in range(2):
        found = by_node(grid, questions(grid))
        assert sorted(found) == [1, 2, 3, 4]
        for node, reply in found.items():
            facts = dict(reply.content.config_records["f"])
            pid = facts.pop("pid")
            assert facts == {"node": node, "part": node - 1, "of": 4, "own": 2, "run": 1, "kind": "train"}
            assert (pid == os.getpid()) == (kind is InlineGrid)
            assert reply.content.array_records["sum"]["w"].numpy().tolist() == [node, node + 1, node + 2]


def waiting(message, context):
    time.sleep(0.05)
    return describe(message, context)


def test_all_workers_work_and_a_client_comes_back_to_its_own(grid_of):
    """A preference only: a worker that is free takes the next client, whoever had it before."""
    grid = grid_of(PoolGrid, waiting, clients=9, workers=3)
    first, second = (
        {n: r.content.config_records["f"]["pid"] for n, r in by_node(grid, questions(grid)).items()} for _ in range(2)
    )
    assert len(set(first.values())) == 3
    assert sum(first[node] == second[node] for node in first) >= 5


def slow_first(message, context):
    time.sleep(0.3 if context.node_id == 1 else 0.0)
    return Message(RecordDict(), reply_to=message)


def test_replies_come_as_they_finish(grid_of):
    grid = grid_of(PoolGrid, slow_first)
    assert [reply.metadata.src_node_id for reply in grid.send_and_receive(questions(grid))][-1] in (1, 3)


def test_updates_in_any_order_are_summed_in_the_registrys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    federation = Federation.of([*SMALL, "protection=none", "engine=inline"])
    first = simulate.simulate(federation, "a", "quiet")["model_sha256"]
    ask = InlineGrid.send_and_receive
    monkeypatch.setattr(
        InlineGrid, "send_and_receive", lambda self, messages, **k: reversed(list(ask(self, messages, **k)))
    )
    assert simulate.simulate(federation, "b", "quiet")["model_sha256"] == first


def spoil(message, context):
    """Change everything that was sent, after answering from it."""
    reply = describe(message, context)
    records = message.content
    records.array_records["tensors"]["w"].data = b"spoilt"
    records.array_records["tensors"]["v"] = Array(np.zeros(1))
    records.config_records["c"]["list"].append(4)
    records.config_records["c"]["word"] = "spoilt"
    records["more"] = ConfigRecord()
    return reply


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_cannot_change_what_others_or_the_coordinator_hold(grid_of, kind):
    grid = grid_of(kind, spoil)
    weights = ArrayRecord({"w": Array(np.arange(3, dtype=np.float32))})
    content = RecordDict({"tensors": weights, "c": ConfigRecord({"list": [1, 2], "word": "sent"})})
    for _ in range(2):
        for node, reply in by_node(grid, questions(grid, content)).items():
            assert not reply.has_error()
            assert reply.content.array_records["sum"]["w"].numpy().tolist() == [node, node + 1, node + 2]
    assert content.array_records["tensors"]["w"].numpy().tolist() == [0, 1, 2]
    assert dict(content.config_records["c"]) == {"list": [1, 2], "word": "sent"}
    assert list(content) == ["tensors", "c"]


# --- failures


def raising(message, context):
    if context.node_id == 2:
        raise OSError("this disk is full")
    return describe(message, context)


def dying(message, context):
    if context.node_id == 2:
        os._exit(7)
    return describe(message, context)


@pytest.mark.parametrize(
    ("kind", "app", "reason"),
    [(InlineGrid, raising, "disk is full"), (PoolGrid, raising, "disk is full"), (PoolGrid, dying, "exit code 7")],
)
@pytest.mark.parametrize("clients", [4, 12])
def test_a_failing_client_fails_alone(grid_of, kind, app, reason, clients):
    grid = grid_of(kind, app, clients=clients)
    for _ in range(2):  # and the engine goes on
        found = by_node(grid, questions(grid))
        assert sorted(found) == list(range(1, clients + 1))
        assert [node for node, reply in found.items() if reply.has_error()] == [2]
        assert reason in found[2].error.reason


def test_a_dead_worker_changes_one_zero_update_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = engine.load(engine.CLIENT_APP)

    def deadly(message, context):
        if message.metadata.message_type == "train" and context.node_id == 2:
            os._exit(9)
        return app(message, context)

    def polite(message, context):
        if message.metadata.message_type == "train" and context.node_id == 2:
            raise RuntimeError("no")
        return app(message, context)

    load, found = engine.load, []
    for place, broken in (("pool", deadly), ("inline", polite)):
        monkeypatch.setattr(engine, "load", lambda name, b=broken: b if name == engine.CLIENT_APP else load(name))
        federation = Federation.of([*SMALL, "protection=none", f"engine={place}", f"vault.root={place}"])
        found.append(simulate.simulate(federation, place, "quiet")["model_sha256"])
    assert found[0] == found[1]
    log = (tmp_path / "runs" / "pool" / "operator.log").read_text().splitlines()
    assert log == [f"round {r} client c0002: the worker process ended (exit code 9)" for r in (1, 2)]


def test_a_floor_that_all_have_stops_the_run_with_the_reason_on_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    federation = Federation.of([*SMALL, "protection=none", "policy.floor=[dctdp]"])
    with pytest.raises(checks.UserError, match=r"No client takes part.*floor") as error:
        simulate.simulate(federation, "run", "quiet")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []  # no vault, no key, no run


# --- processes


def test_workers_end_when_the_app_on_the_server_raises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pids = []

    def server(grid, context):
        pids.extend(r.content.config_records["f"]["pid"] for r in grid.send_and_receive(questions(grid)))
        raise RuntimeError("the coordinator's bug")

    monkeypatch.setattr(engine, "load", lambda name: describe if name == engine.CLIENT_APP else server)
    with pytest.raises(RuntimeError, match="bug"):
        engine.run(Engine("pool", 2), 4, {"a": 1}, {"b": 2})
    assert len(set(pids)) == 2
    for pid in set(pids):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def forever(message, context):
    time.sleep(600)


def test_an_interrupt_while_workers_are_busy_ends_them_at_once(grid_of):
    grid = grid_of(PoolGrid, forever)
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        list(grid.send_and_receive(questions(grid)))
    signal.signal(signal.SIGALRM, old)
    assert multiprocessing.active_children() == []
    assert time.perf_counter() - begun < 5


def test_a_listener_that_leaves_halfway_gets_no_old_answers(grid_of):
    grid = grid_of(PoolGrid, describe)
    half = grid.send_and_receive(questions(grid))
    next(half)
    half.close()
    other = RecordDict({"tensors": ArrayRecord({"w": Array(np.full(3, 5, np.float32))})})
    found = by_node(grid, questions(grid, other))
    assert {n: r.content.array_records["sum"]["w"].numpy()[0] for n, r in found.items()} == {1: 6, 2: 7, 3: 8, 4: 9}


def test_large_and_growing_broadcasts(grid_of):
    grid = grid_of(PoolGrid, describe)
    for size in (3, 50_000, 400_000, 10):
        content = RecordDict({"tensors": ArrayRecord({"w": Array(np.ones(size, np.float32))})})
        found = by_node(grid, questions(grid, content))
        assert {n: float(r.content.array_records["sum"]["w"].numpy().sum()) for n, r in found.items()} == {
            node: size * (1 + node) for node in range(1, 5)
        }


# --- Flower's internals


def test_the_adapter_fits_this_version_of_flower():
    """`_flower` leans on internals: task identity, message ids, metadata, wire format."""
    assert flwr.__version__.startswith("1.41.")
    _flower.identify()
    message = questions(InlineGrid(describe, _flower.Settings(1, {}, {})))[0]
    _flower.number(message, "m77")
    assert message.metadata.message_id == "m77"
    back = _flower.from_bytes(_flower.to_bytes(message))
    assert back.metadata.__dict__ == message.metadata.__dict__
    assert back.content == message.content
    reply = _flower.from_bytes(_flower.to_bytes(Message(RecordDict(), reply_to=back)))
    assert reply.metadata.reply_to_message_id == "m77"
    assert reply.metadata.src_node_id == message.metadata.dst_node_id
    failed = _flower.from_bytes(_flower.to_bytes(_flower.failure(back, "why")))
    assert (failed.has_error(), failed.error.reason, failed.metadata.reply_to_message_id) == (True, "why", "m77")


def test_push_and_pull_are_send_and_receive(grid_of):
    grid = grid_of(InlineGrid, describe)
    names = grid.push_messages(questions(grid))
    assert len(set(names)) == 4
    replies = grid.pull_messages(names)
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3, 4]
    assert grid.pull_messages(names) == []


def test_an_unknown_engine_is_refused_with_the_nearest():
    with pytest.raises(checks.UserError, match="Did you mean 'pool'"):
        engine.run(Engine("pol"), 2, {}, {})
