"""The pool's workers: order, memory, deaths. What answers contain is in `test_engines`."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import time
from multiprocessing import resource_tracker

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedveil.engine import _flower, _parcel, arrays
from fedveil.engine.pool import PoolGrid


@pytest.fixture(autouse=True)
def nothing_is_left():
    resource_tracker.ensure_running()  # Python's own, once per process that spawns
    gc.collect()  # what tests of other files left to be collected is no concern of this one
    threads, handles = torch.get_num_threads(), len(os.listdir("/proc/self/fd"))
    yield
    torch.set_num_threads(threads)
    assert multiprocessing.active_children() == []
    assert len(os.listdir("/proc/self/fd")) <= handles
    assert not [name for name in os.listdir("/dev/shm") if "fedveil" in name]


@pytest.fixture
def grid_of():
    opened = []

    def build(app, clients=6, workers=2, **words):
        opened.append(PoolGrid(app, _flower.Settings(clients, {}, {}, workers), **words))
        return opened[-1]

    yield build
    for grid in opened:
        grid.close()


def questions(grid, size=1000):
    tensors = arrays.record({"w": np.arange(size, dtype=np.float32)}, local=True)
    content = RecordDict({"t": tensors})
    return [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]


def shifted(message, context):
    """Answer with the values plus the node's number, in the memory that the asker reads."""
    sent = message.content["t"]["w"].values
    values = np.add(sent, np.float32(context.node_id), out=arrays.room(sent.shape))
    about = ConfigRecord({"pid": os.getpid()})
    return Message(RecordDict({"u": arrays.record({"w": values}, True), "f": about}), reply_to=message)


def of(reply):
    return reply.content["u"]["w"].values


def test_answers_that_somebody_keeps_stay_as_they_were(grid_of):
    grid = grid_of(shifted, clients=20)
    kept = {r.metadata.src_node_id: of(r) for _ in range(2) for r in grid.send_and_receive(questions(grid))}
    grid.close()
    assert {node: float(values[0]) for node, values in kept.items()} == {node: float(node) for node in range(1, 21)}
    assert {float(values[-1]) - node for node, values in kept.items()} == {999.0}


def test_memory_does_not_grow_with_the_cohort(grid_of):
    """A listener that lets go of every answer is given all of them in the same few places."""
    sizes, places = [], []
    for clients in (10, 200):
        grid = grid_of(shifted, clients=clients)
        for reply in grid.send_and_receive(questions(grid, 50_000)):
            places.append(of(reply).__array_interface__["data"][0])
            del reply
        sizes.append(os.fstat(grid._slots.memory.handle).st_size)
        grid.close()
    assert sizes[0] == sizes[1] <= 4 * _parcel.aligned(200_000)


def test_messages_go_out_in_order_and_not_far_ahead_of_the_oldest(grid_of, tmp_path):
    """So answers that are summed in this order need not be kept: a slow client holds up those behind it."""

    def noted(message, context):
        if context.node_id == 1:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                time.sleep(0.01)
        (tmp_path / f"{time.monotonic_ns()}-{context.node_id}").touch()
        return shifted(message, context)

    grid = grid_of(noted, clients=12, workers=2)
    order = [reply.metadata.src_node_id for reply in grid.send_and_receive(questions(grid))]
    assert order.index(1) <= 3  # at most two a worker ahead
    assert sorted(order) == list(range(1, 13))
    assert order[-1] >= 9


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_killed_worker_is_nobodys_fault_once(grid_of, tmp_path, deaths):
    def killed(message, context):
        if context.node_id == 3 and len(list(tmp_path.iterdir())) < deaths:
            (tmp_path / str(time.monotonic_ns())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return shifted(message, context)

    grid = grid_of(killed)
    found = {r.metadata.src_node_id: r for r in grid.send_and_receive(questions(grid))}
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    failed = {node: r.error.reason for node, r in found.items() if r.has_error()}
    assert failed == ({} if deaths == 1 else {3: "the worker process ended (exit code -9)"})


def test_a_worker_killed_from_outside_while_idle_or_busy_loses_nothing(grid_of):
    def slow(message, context):
        time.sleep(0.05)
        return shifted(message, context)

    grid = grid_of(slow, clients=30)
    answers = grid.send_and_receive(questions(grid))
    first = [next(answers) for _ in range(3)]
    os.kill(first[0].content["f"]["pid"], signal.SIGKILL)
    rest = list(answers)
    assert len({reply.content["f"]["pid"] for reply in rest}) >= 2
    os.kill(rest[-1].content["f"]["pid"], signal.SIGKILL)
    time.sleep(0.1)
    again = list(grid.send_and_receive(questions(grid)))
    for replies in (first + rest, again):
        assert sorted(reply.metadata.src_node_id for reply in replies) == list(range(1, 31))
        assert not any(reply.has_error() for reply in replies)


def test_what_a_client_was_sent_is_read_only(grid_of):
    def writing(message, context):
        message.content["t"]["w"].values[0] = 9
        return shifted(message, context)

    grid = grid_of(writing)
    replies = list(grid.send_and_receive(questions(grid)))
    assert all("read-only" in reply.error.reason for reply in replies)


class Twice:
    """An app that any process can unpickle: it names nothing that only this file has."""

    def __reduce__(self):
        return eval, (TWICE,)


TWICE = """
lambda message, context: __import__("flwr.app").app.Message(
    __import__("flwr.app").app.RecordDict({"u": __import__("fedveil.engine.arrays").engine.arrays.record(
        {"w": message.content["t"]["w"].values * context.node_id}, True)}), reply_to=message)
"""


def test_workers_can_be_spawned(grid_of):
    """For a parent that holds an accelerator, which no forked process may touch."""
    grid = grid_of(Twice(), clients=3, workers=1, start="spawn")
    found = {r.metadata.src_node_id: r for r in grid.send_and_receive(questions(grid))}
    assert {node: float(of(r)[1]) for node, r in found.items()} == {1: 1.0, 2: 2.0, 3: 3.0}


def test_pieces_are_shared_fairly_by_many_workers(grid_of):
    grid = grid_of(shifted, clients=25, workers=5)
    replies = list(itertools.islice(grid.send_and_receive(questions(grid)), 25))
    assert {r.metadata.src_node_id: float(of(r)[0]) for r in replies} == {node: float(node) for node in range(1, 26)}
