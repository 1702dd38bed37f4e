"""Real nodes' replies: one at a time as they come, whoever is late, gone or refused by the SuperLink named."""

from __future__ import annotations

import gc
import weakref

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error

from fedveil.engine import _flower
from fedveil_strategies import fetching


class SuperLink:
    """Keeps replies until they are fetched; `come` says after how many looks at all a node's is there."""

    def __init__(self, come, refused=()):
        self.come, self.refused = come, refused
        self.messages, self.asked, self.pushed, self.looks, self.gone = {}, [], [], 0, set()

    def push_messages(self, messages):
        names = []
        for message in messages:
            node = message.metadata.dst_node_id
            _flower.number(message, f"m{node}")
            names.append("" if node in self.refused else f"m{node}")
            self.messages[f"m{node}"] = message
        self.pushed.append(len(names))
        return names

    def pull_messages(self, names):
        (name,) = names
        self.asked.append(name)
        self.looks += name == min(self.messages)
        message = self.messages[name]
        node = message.metadata.dst_node_id
        assert node not in self.gone  # a SuperLink that is asked again for what was fetched answers with an error
        if self.come[node] is None or self.come[node] > self.looks:
            return []
        self.gone.add(node)
        if self.come[node] < 0:
            return [Message(Error(code=5, reason="Node Unavailable"), reply_to=message)]
        return [Message(RecordDict({"reply": ConfigRecord({"node": node})}), reply_to=message)]


@pytest.fixture
def ask(monkeypatch):
    _flower.identify()
    slept = []
    clock = [0.0]

    def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(fetching.time, "sleep", sleep)
    monkeypatch.setattr(fetching.time, "monotonic", lambda: clock[0])

    def asked(come, refused=(), seconds=100.0):
        content = RecordDict({"big": ConfigRecord({"x": 1})})
        messages = {node: Message(content, dst_node_id=node, message_type="train") for node in come}
        link = SuperLink(come, refused)
        return link, messages, fetching.replies(link, messages, seconds, values=0, arrays=0), slept

    return asked


def of(reply):
    return int(reply.metadata.reply_to_message_id[1:])


def test_replies_that_are_there_come_in_order_without_a_pause(ask):
    _, _, replies, slept = ask({1: 0, 2: 0, 3: 0})
    assert [of(reply) for reply in replies] == [1, 2, 3]
    assert slept == []


def test_who_is_slow_keeps_nobody_waiting(ask):
    _, _, replies, slept = ask({2: 4, 3: 1, 4: 2, 5: 1})
    assert [of(reply) for reply in replies] == [3, 5, 4, 2]
    assert all(0 < seconds <= 2 for seconds in slept)


def test_no_reply_is_fetched_before_the_one_before_it_was_dealt_with(ask):
    link, _, replies, _ = ask({1: 0, 2: 0, 3: 0})
    for reply in replies:
        assert len(link.gone) == of(reply)
        held = weakref.ref(reply)
        del reply
        assert held() is None


def test_the_deadline_is_looked_at_once_more_and_ends_it(ask):
    link, _, replies, slept = ask({1: None, 2: 0, 3: None}, seconds=9.0)
    assert [of(reply) for reply in replies] == [2]
    assert sum(slept) == pytest.approx(9.0)
    assert link.asked[-2:] == ["m1", "m3"]
    assert len(slept) < 12  # the pause grows


def test_a_node_that_is_gone_is_answered_for_once(ask):
    _, _, replies, _ = ask({1: -1, 2: 0})
    first, second = list(replies)
    assert (of(first), first.error.code) == (1, 5)
    assert (of(second), second.has_error()) == (2, False)


def test_a_message_that_is_not_taken_is_an_error_at_once(ask):
    link, _, replies, slept = ask({1: 0, 2: 0}, refused=(1,))
    first, second = list(replies)
    assert (of(first), first.error.code, of(second)) == (1, 3, 2)
    assert link.asked == ["m2"]
    assert slept == []


def test_messages_are_sent_a_few_at_a_time_and_their_content_is_let_go(ask):
    link, messages, replies, _ = ask(dict.fromkeys(range(1, 71), 0))
    content = weakref.ref(messages[1].content)
    first = next(replies)
    link.messages = {name: messages[int(name[1:])] for name in link.messages}
    assert link.pushed == [32, 32, 6]
    gc.collect()
    assert content() is None
    assert messages[of(first)].metadata.message_id == "m1"
    assert len([*replies]) == 69


@pytest.mark.parametrize("nodes", [1, 31, 32, 33, 64, 65])
def test_everybody_is_sent_a_message_whatever_their_number(ask, nodes):
    link, _, replies, _ = ask(dict.fromkeys(range(1, nodes + 1), 0))
    answered = [of(reply) for reply in replies]
    assert sum(link.pushed) == nodes
    assert answered == [*range(1, nodes + 1)]
