"""Replies: of this round, this run and this node, or they count nowhere."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.error import Error

from fedveil.engine import _flower
from fedveil.records import Failure, Update
from fedveil_strategies import replies
from fedveil_strategies.replies import Asked

SHAPES = {"w": (3,)}


def asked(number=4, nodes=(1, 2), run_id="run"):
    _flower.identify()
    messages = {}
    for node in nodes:
        messages[node] = Message(RecordDict({"q": ConfigRecord({})}), dst_node_id=node, message_type="train")
        _flower.number(messages[node], f"r{number}n{node}")
    clients = {node: f"c{node}" for node in nodes}
    return Asked(run_id, number, messages, clients, SHAPES, lambda client: f"vault of {client}", 9.0)


def update(question, node, values=(1, 2, 3), **changes):
    about = {"run_id": question.run_id, "round": question.round, "vault": f"vault of c{node}", **changes}
    arrays = ArrayRecord({"w": Array(np.array(values, np.float32))})
    return Message(RecordDict({"reply": ConfigRecord(about), "update": arrays}), reply_to=question.messages[node])


def read(question, given):
    changed = []
    found = list(replies.answers(given, question, lambda node, client: changed.append((node, client))))
    return [one for one in found if one not in silence(question)], changed


def silence(question):
    return [Failure(client, "no answer within 9 s (engine.round_timeout)", "late") for client in ("c1", "c2")]


def test_an_update_is_what_was_asked_for():
    question = asked()
    (found,), changed = read(question, [update(question, 2)])
    assert isinstance(found, Update)
    assert (found.client_id, found.tensors["w"].tolist(), changed) == ("c2", [1, 2, 3], [])


def test_who_says_nothing_is_late_and_who_answers_twice_is_not():
    question = asked()
    given = [update(question, 2), update(question, 2)]
    found = list(replies.answers(given, question, lambda node, client: None))
    assert found[2:] == silence(question)[:1]
    assert list(replies.answers([], question, lambda node, client: None)) == silence(question)


def test_an_update_is_held_by_whoever_took_it_alone():
    question = asked()
    found = replies.answers([update(question, 2)], question, lambda node, client: None)
    values = weakref.ref(next(found).tensors["w"])
    assert values() is None


def test_a_late_reply_of_a_round_never_counts_in_the_next_one():
    """By the question it answers, and, should a transport mix those up, by what it says of itself."""
    earlier, now = asked(3), asked(4)
    late = update(earlier, 1)
    assert read(now, [late]) == ([], [])
    late.metadata.__dict__["_reply_to_message_id"] = now.messages[1].metadata.message_id
    (found,), _ = read(now, [late])
    assert (found.kind, "round 4" in found.reason) == ("late", True)
    (other,), _ = read(now, [update(now, 1, run_id="another")])
    assert isinstance(other, Failure)


def test_a_node_speaks_for_itself_alone():
    question = asked()
    forged = update(question, 2)
    forged.metadata.__dict__["_src_node_id"] = 1  # node 1 answers what node 2 was asked
    assert read(question, [forged]) == ([], [])
    stranger = update(question, 2)
    stranger.metadata.__dict__["_src_node_id"] = 77
    assert read(question, [stranger]) == ([], [])


def test_a_superlink_that_reports_a_node_as_gone_is_that_nodes_lateness():
    question = asked()
    lost = Message(Error(code=5, reason="Node Unavailable"), reply_to=question.messages[2])
    lost.metadata.__dict__["_src_node_id"] = 1 << 40  # the SuperLink's own
    assert read(question, [lost])[0] == [Failure("c2", "Node Unavailable", "late")]
    failed = Message(Error(code=2, reason="x" * 500 + "ValueError: why"), reply_to=question.messages[2])
    (found,), _ = read(question, [failed])
    assert found.kind == "failed"
    assert found.reason.endswith("ValueError: why")
    assert len(found.reason) < 310


def test_another_vault_than_at_the_roll_call_is_told_and_counts_as_nothing():
    question = asked()
    found, changed = read(question, [update(question, 1, vault="another"), update(question, 2)])
    assert changed == [(1, "c1")]
    assert [type(one) for one in found] == [Failure, Update]


@pytest.mark.parametrize(
    "content",
    [
        {}, {"update": ConfigRecord({})}, {"update": ArrayRecord({}), "more": ConfigRecord({})},
        {"refusal": ArrayRecord({})}, {"client\x1b[2J": ConfigRecord({})},
    ],
)  # fmt: skip
def test_other_records_are_that_clients_failure(content):
    question = asked()
    (found,), _ = read(question, [Message(RecordDict(content), reply_to=question.messages[1])])
    assert isinstance(found, Failure)
    assert found.reason.isprintable()


def test_bytes_that_are_no_array_or_too_many_are_that_clients_failure():
    question = asked()
    for values in ([1, 2], range(10**6)):
        (found,), _ = read(question, [update(question, 1, values)])
        assert "cannot be read" in found.reason
    broken = update(question, 1)
    broken.content.array_records["update"]["w"].data = b"no array"
    (found,), _ = read(question, [broken])
    assert "cannot be read" in found.reason
    (found,), _ = read(question, [update(question, 1, [np.nan, 1, 2])])
    assert np.isnan(found.tensors["w"][0])  # for `rounds` to refuse, or to clip where that is a secret


def test_a_refusal_has_its_kind_and_one_printable_line():
    question = asked()
    for kind, expected in (("refused", "refused"), ("failed", "failed"), ("other", "failed")):
        said = ConfigRecord({"reason": "the\nfloor\x1b[31m", "kind": kind, "client_id": "c9"})
        (found,), _ = read(question, [Message(RecordDict({"refusal": said}), reply_to=question.messages[1])])
        assert found == Failure("c1", "the floor [31m", expected)
