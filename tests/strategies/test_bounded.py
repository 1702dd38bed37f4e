"""Whatever objects a node sends, through Flower's own grid: a failure of that node, bounded, and nobody else's."""

from __future__ import annotations

import time
import tracemalloc

import httpx
import numpy as np
import pytest
import superlink
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.error import Error

from fedveil.engine import _flower
from fedveil_strategies import bounded, guard
from fedveil_strategies.guard import Bounds

VALUES = np.arange(3000, dtype=np.float32)
LATER = 1e12


@pytest.fixture
def asked():
    grid, client = superlink.grid()
    questions = []
    for node in (11, 12):
        question = Message(RecordDict(), dst_node_id=node, message_type="train")
        _flower.number(question, f"question-{node}")
        questions.append(question)

    def pull(question=None, values=VALUES.nbytes, arrays=1, until=LATER):
        before = grid._client
        try:
            return bounded.pulled(grid, question or questions[0], Bounds(values, arrays, until))
        finally:
            assert grid._client is before

    return grid, client, questions, pull


def honest(question, values=VALUES):
    content = {"reply": ConfigRecord({"round": 1}), "update": ArrayRecord({"w": Array(values)})}
    return Message(RecordDict(content), reply_to=question)


def part(size, byte=b"x"):
    return superlink.made("ArrayChunk", [], byte * size)


def reason(found):
    (reply,) = found
    assert reply.has_error()
    assert reply.error.code == 2
    assert reply.metadata.reply_to_message_id == "question-11"
    return reply.error.reason


def test_an_honest_reply_arrives_and_is_confirmed(asked):
    _, client, (question, _), pull = asked
    assert pull() == []
    root, contents = superlink.objects(honest(question))
    client.answer(question, root, contents)
    (reply,) = pull()
    assert np.array_equal(reply.content["update"]["w"].numpy(), VALUES)
    assert client.confirmed == [root]


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 7])
def test_equal_parts_of_an_honest_array_count_as_often_as_they_are_named(asked, size):
    _, client, (question, _), pull = asked
    zeros = np.zeros(5 * size, np.float32)  # parts of 5 MiB, most of them one object
    client.answer(question, *superlink.objects(honest(question, zeros)))
    (reply,) = pull(values=zeros.nbytes)
    assert reply.content["update"]["w"].numpy().nbytes == zeros.nbytes
    client.answer(question, *superlink.objects(honest(question, zeros)))
    assert "unpacks to more" in reason(pull(values=zeros.nbytes - 5000))


def test_an_array_that_names_one_part_very_often_is_never_unpacked(asked):
    _, client, (question, _), pull = asked
    chunk, content = part(8000)
    name, bomb = superlink.array([chunk], [0] * 40_000)  # 320 MB out of 130 KB
    client.answer(question, *superlink.wrapped(question, {"w": name}, {chunk: content, name: bomb}))
    tracemalloc.start()
    assert "unpacks to more than" in reason(pull())
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


def test_many_arrays_of_one_part_and_arrays_in_arrays_are_never_unpacked(asked):
    _, client, (question, _), pull = asked
    chunk, content = part(8000)
    many = dict(superlink.array([chunk], [0], stype=f"s{number}") for number in range(40))
    names = {f"w{number}": name for number, name in enumerate(many)}
    client.answer(question, *superlink.wrapped(question, names, {chunk: content, **many}))
    assert "unpacks to more than" in reason(pull(arrays=10))
    inner, inner_is = superlink.array([chunk], [0])
    outer, outer_is = superlink.array([inner], [0] * 1000)
    contents = {chunk: content, inner: inner_is, outer: outer_is}
    client.answer(question, *superlink.wrapped(question, {"w": outer}, contents))
    assert "cannot be read" in reason(pull())


def test_too_large_a_reply_is_left_where_it_is_and_forgotten_there(asked):
    _, client, (question, _), pull = asked
    chunks = dict(part(1 << 13, bytes([number])) for number in range(100))
    name, content = superlink.array([*chunks], [*range(100)])
    root, contents = superlink.wrapped(question, {"w": name}, {**chunks, name: content})
    client.answer(question, root, contents)
    assert "its arrays have more than" in reason(pull(arrays=30, values=10_000))
    assert len(set(client.fetched)) < 20
    assert client.confirmed == [root]


def test_too_many_parts_are_not_fetched_and_too_many_words_neither(asked, monkeypatch):
    _, client, (question, _), pull = asked
    chunks = dict(part(1, bytes([number // 256, number % 256])) for number in range(200))
    name, content = superlink.array([*chunks], [*range(200)])
    root, contents = superlink.wrapped(question, {"w": name}, {**chunks, name: content})
    client.answer(question, root, contents)
    assert "parts" in reason(pull())
    assert client.fetched == []
    assert client.confirmed == [root]
    monkeypatch.setattr(guard, "_WORDS", 2000)
    wordy = Message(RecordDict({"reply": ConfigRecord({"said": "x" * 3000})}), reply_to=question)
    client.answer(question, *superlink.objects(wordy))
    assert "beside its arrays" in reason(pull())


@pytest.mark.parametrize("kind", ["no message", "no record", "no json", "no parts", "no records"])
def test_what_flower_cannot_unpack_is_its_senders_failure(asked, kind):
    _, client, (question, _), pull = asked
    chunk, content = part(8)
    name, described = superlink.array([chunk], [0])
    if kind == "no json":
        name, described = superlink.made("Array", [chunk], b"[")
    if kind == "no parts":
        name, described = superlink.array([chunk], [7])
    if kind == "no record":
        name, described = superlink.made("ConfigRecord", [], b"")
    root, contents = superlink.wrapped(question, {"w": name}, {chunk: content, name: described})
    if kind == "no message":
        root = name
    if kind == "no records":  # a message of an array: Flower unpacks it, and nobody else could read it
        root, message = superlink.made("Message", [name], contents[root].partition(b"\0")[2])
        contents[root] = message
    client.answer(question, root, contents)
    said = reason(pull())
    assert "cannot be read" in said or "names another" in said


def test_an_answer_counts_for_the_question_that_was_asked(asked):
    """What a SuperLink has checked is not what Flower's grid hands on: that is read from the reply's own bytes."""
    _, client, (mine, other), pull = asked
    client.answer(mine, *superlink.objects(honest(other)))
    assert "names another" in reason(pull(mine))
    forged = honest(mine)
    forged.metadata.__dict__["_src_node_id"] = 12
    client.answer(mine, *superlink.objects(forged))
    assert "names another" in reason(pull(mine))
    client.answer(mine, *superlink.objects(Message(Error(5, "gone"), reply_to=other)))
    assert "names another" in reason(pull(mine))


def test_parts_that_are_kept_back_are_waited_for_until_the_deadline(asked, monkeypatch):
    _, client, (question, _), pull = asked
    root, contents = superlink.objects(honest(question))
    client.answer(question, root, contents)
    client.held_back = {next(name for name, one in contents.items() if one.startswith(b"ArrayChunk"))}
    begun = time.monotonic()
    (reply,) = pull(until=begun)
    assert time.monotonic() - begun < 1
    assert reply.error.code == 3  # late
    assert reply.metadata.reply_to_message_id == "question-11"


def test_what_asking_the_superlink_raises_is_nobodys_failure(asked):
    _, client, _, pull = asked
    client.error = httpx.ConnectError("gone")
    with pytest.raises(httpx.ConnectError):
        pull()
