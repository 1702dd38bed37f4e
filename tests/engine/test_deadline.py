"""A round's deadline: who hangs fails alone, everybody else is worked on, and a late answer counts nowhere."""

from __future__ import annotations

import json
import os
import time
import tracemalloc

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedveil import engine
from fedveil.commands import simulate
from fedveil.engine import _flower
from fedveil.engine.inline import InlineGrid
from fedveil.engine.pool import PoolGrid
from fedveil.federation.federation import Federation
from fedveil_strategies import observers

SMALL = (
    "tracking=none", "evaluation.reference=false", "data.identities=9", "data.images_per_identity=4",
    "data.evaluation_identities=6", "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4",
    "data.public_images=4", "model.width=8", "model.embedding=16", "train.clients=4", "protection=none",
    "train.rounds=2", "train.local.steps=2", "train.batch_size=6", "evaluation.draws=1", "evaluation.bootstrap=0",
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def grid_of():
    opened = []

    def build(kind, app, clients=6, workers=2):
        opened.append(kind(app, _flower.Settings(clients, {}, {}, workers)))
        return opened[-1]

    yield build
    for grid in opened:
        grid.close()


def questions(grid):
    content = RecordDict({"c": ConfigRecord({})})
    return [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]


def pid_of(message, context):
    return Message(RecordDict({"f": ConfigRecord({"pid": os.getpid()})}), reply_to=message)


def a_pipe_among_the_files(place):
    path = place / "picture.jpg"
    os.mkfifo(path)

    def reading(message, context):
        if context.node_id == 3:
            path.read_bytes()  # nobody ever writes
        return pid_of(message, context)

    return reading


def test_a_client_that_hangs_fails_alone_and_its_worker_is_replaced(grid_of, tmp_path):
    grid = grid_of(PoolGrid, a_pipe_among_the_files(tmp_path))
    begun = time.perf_counter()
    found = {r.metadata.src_node_id: r for r in grid.send_and_receive(questions(grid), timeout=1.0)}
    assert time.perf_counter() - begun < 6
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert [node for node, reply in found.items() if reply.has_error()] == [3]
    assert found[3].error.code == _flower.NO_ANSWER
    assert "no answer within 1 s" in found[3].error.reason
    assert list(found)[-1] == 3  # nobody waited behind it
    pids = {node: reply.content.config_records["f"]["pid"] for node, reply in found.items() if node != 3}
    before = {pids[node] for node in pids}
    again = [m for m in questions(grid) if m.metadata.dst_node_id != 3]
    assert {r.content.config_records["f"]["pid"] for r in grid.send_and_receive(again, timeout=5.0)} - before


def slow(message, context):
    time.sleep(0.3)
    return pid_of(message, context)


def test_waiting_for_a_processor_is_nobodys_fault(grid_of):
    """Six clients of 0.3 s behind one worker take 1.8 s; each of them is within its second."""
    grid = grid_of(PoolGrid, slow, workers=1)
    assert not any(reply.has_error() for reply in grid.send_and_receive(questions(grid), timeout=1.0))


def test_the_inline_engine_drops_what_comes_too_late(grid_of):
    grid = grid_of(InlineGrid, lambda m, c: slow(m, c) if c.node_id == 2 else pid_of(m, c), clients=3)
    found = {r.metadata.src_node_id: r for r in grid.send_and_receive(questions(grid), timeout=0.2)}
    assert [node for node, reply in found.items() if reply.has_error()] == [2]
    assert found[2].error.code == _flower.NO_ANSWER


def test_a_run_goes_on_with_the_others_and_says_how_many_updates_are_missing(monkeypatch, tmp_path):
    app = engine.load(engine.CLIENT_APP)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def hanging(message, context):
        if message.metadata.message_type == "train" and context.node_id == 2:
            pipe.read_bytes()
        return app(message, context)

    def failing(message, context):
        if message.metadata.message_type == "train" and context.node_id == 2:
            raise RuntimeError("no")
        return app(message, context)

    load, found = engine.load, []
    for name, broken, place in (("late", hanging, "pool"), ("failed", failing, "inline")):
        monkeypatch.setattr(engine, "load", lambda asked, b=broken: b if asked == engine.CLIENT_APP else load(asked))
        words = [*SMALL, f"engine={place}", "engine.round_timeout=8", f"vault.root={name}"]
        found.append(simulate.simulate(Federation.of(words), name, "quiet"))
    assert found[0]["model_sha256"] == found[1]["model_sha256"]
    assert found[0]["missing_updates"] == {"excluded": 0, "refused": 0, "late": 2, "failed": 0}
    assert found[1]["missing_updates"] == {"excluded": 0, "refused": 0, "late": 0, "failed": 2}
    log = (tmp_path / "runs" / "late" / "operator.log").read_text().splitlines()
    assert log == [f"round {r} client c0002: no answer within 8 s (engine.round_timeout)" for r in (1, 2)]
    assert (tmp_path / "runs" / "late" / "operator.log").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "runs/late/result.json").read_text())["rounds"][0]["missing"] == {"late": 1}


def test_a_local_engine_of_a_million_nodes_costs_what_its_cohort_costs(grid_of):
    tracemalloc.start()
    begun = time.perf_counter()
    grid = grid_of(InlineGrid, pid_of, clients=10**6)
    assert grid.uniform
    assert len(grid.get_node_ids()) == 10**6
    content = RecordDict({"c": ConfigRecord({})})
    few = [Message(content, dst_node_id=node, message_type="train") for node in (1, 500_000, 10**6)]
    assert [r.metadata.src_node_id for r in grid.send_and_receive(few)] == [1, 500_000, 10**6]
    assert time.perf_counter() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
