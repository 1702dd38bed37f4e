"""A round over a SuperLink's grid, whose nodes answer when they like, has the hash of the engine in one process."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

import fedveil
from fedveil import config
from fedveil.engine import _flower
from fedveil.engine.inline import InlineGrid
from fedveil.federation.federation import Federation
from fedveil.records import model_sha256
from fedveil_strategies import app as server_app
from fedveil_strategies import coordinator, fetching, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg

CLIENTS = 12
SHAPES = {"w": (40, 30), "scalar": ()}


def client(message, context):
    """Say who it is, or send an update of its own; the ninth refuses."""
    told = dict(message.content.config_records["instruction"])
    about = {"run_id": told["run_id"], "vault": "v"}
    if message.metadata.message_type == "query":
        said = ConfigRecord({**about, "client_id": "c0001", "version": fedveil.__version__})
        return Message(RecordDict({"client": said}), reply_to=message)
    node = message.metadata.dst_node_id
    if node == 9:
        return Message(RecordDict({"refusal": ConfigRecord({"reason": "no", "kind": "refused"})}), reply_to=message)
    rng = np.random.default_rng([node, told["round"]])
    arrays = {name: Array(rng.standard_normal(shape).astype(np.float32)) for name, shape in SHAPES.items()}
    content = {"reply": ConfigRecord({**about, "round": told["round"]}), "update": ArrayRecord(arrays)}
    return Message(RecordDict(content), reply_to=message)


class SuperLink(InlineGrid):
    """Keeps messages and replies as bytes; a node's answer is there after some looks, most often out of turn."""

    local = False

    def __init__(self, *given):
        super().__init__(*given)
        self.kept, self.looks = {}, {}

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        assert messages[0].metadata.message_type == "query"  # the roll call of uniform nodes
        return super().send_and_receive(messages, timeout=timeout)

    def push_messages(self, messages):
        for message in messages:
            self._number(message)
            self.kept[message.metadata.message_id] = _flower.to_bytes(message)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, names):
        (name,) = names
        message = _flower.from_bytes(self.kept[name])
        node = message.metadata.dst_node_id
        self.looks[name] = self.looks.get(name, 0) + 1
        if self.looks[name] <= (7 * node) % 5:
            return []
        del self.kept[name]
        return [_flower.from_bytes(_flower.to_bytes(client(message, None)))]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    words = ["protection=none", f"train.clients={CLIENTS}", "train.rounds=3", "tracking=none", f"runs.root={tmp_path}"]
    federation = Federation.of(words)
    monkeypatch.setattr(Federation, "trainable", lambda self, names, stage=None: tuple(names))
    monkeypatch.setattr(coordinator, "open_session", lambda *_: SimpleNamespace(run=SimpleNamespace(folder=tmp_path)))
    monkeypatch.setattr(coordinator, "report", lambda *_: None)
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)

    def run(kind):
        seen = []

        def coordinate(session, transport):
            plan = rounds.Plan(3, federation.registry, federation.settings.train.cohort, 1, tuple(SHAPES))
            start = rounds.State(0, {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, {})

            def stateless(number, cohort, tensors):
                return transport(number, cohort, tensors, {})

            seen.append(rounds.run(plan, start, stateless, FedAvg(), [lambda report: seen.append(report.failures)]))

        monkeypatch.setattr(coordinator, "coordinate", coordinate)
        grid = kind(client, _flower.Settings(CLIENTS, {}, {}))
        given = {"config": config.to_json(federation.settings), "run-id": "run"}
        server_app.main(grid, Context(1, 1, {}, RecordDict(), given))
        return model_sha256(seen[-1].tensors), seen[:-1]

    return run


def test_real_nodes_give_the_hash_of_one_process(trained):
    assert trained(SuperLink) == trained(InlineGrid)
