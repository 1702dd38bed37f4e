"""A registry of a million: the coordinator's side costs what a cohort costs; the data are stand-ins."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

import fedveil
from fedveil import config
from fedveil.engine import _flower
from fedveil.engine.inline import InlineGrid
from fedveil.federation.federation import Federation
from fedveil_strategies import app as server_app
from fedveil_strategies import coordinator, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg

CLIENTS = 1_000_000


def client(message, context):
    """Say who it is, or send an update of ones."""
    told = dict(message.content.config_records["instruction"])
    about = {"run_id": told["run_id"], "vault": "v"}
    if message.metadata.message_type == "query":
        said = ConfigRecord({**about, "client_id": "c0001", "version": fedveil.__version__})
        return Message(RecordDict({"client": said}), reply_to=message)
    update = ArrayRecord({"w": Array(np.ones(4, np.float32))})
    return Message(
        RecordDict({"reply": ConfigRecord({**about, "round": told["round"]}), "update": update}), reply_to=message
    )


def test_a_round_of_a_million_clients_is_a_round_of_its_cohort(tmp_path, monkeypatch):
    words = ["protection=none", f"train.clients={CLIENTS}", f"data.identities={2 * CLIENTS}", "train.rounds=2",
             "train.cohort.rate=0.0002", "tracking=none", f"runs.root={tmp_path}"]  # fmt: skip
    federation = Federation.of(words)
    monkeypatch.setattr(Federation, "trainable", lambda self, names, stage=None: tuple(names))
    seen = []

    def coordinate(session, transport):
        settings = federation.settings.train
        plan = rounds.Plan(2, federation.registry, settings.cohort, federation.settings.seed, ("w",))
        start = rounds.State(0, {"w": np.zeros(4, np.float32)}, {})

        def stateless(number, cohort, tensors):
            seen.append(len(cohort))
            return transport(number, cohort, tensors, {})

        return seen.append(rounds.run(plan, start, stateless, FedAvg(), []))

    monkeypatch.setattr(coordinator, "open_session", lambda *_: None)
    monkeypatch.setattr(coordinator, "report", lambda *_: None)
    monkeypatch.setattr(coordinator, "coordinate", coordinate)
    grid = InlineGrid(client, _flower.Settings(CLIENTS, {}, {}))
    given = {"config": config.to_json(federation.settings), "run-id": "run"}
    tracemalloc.start()
    begun = time.perf_counter()
    server_app.main(grid, Context(1, 1, {}, RecordDict(), given))
    seconds, peak = time.perf_counter() - begun, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    first, second, end = seen
    assert 130 < min(first, second) <= max(first, second) < 270
    assert np.allclose(end.tensors["w"], (first + second) / 200)  # over the expected cohort
    assert seconds < 3
    assert peak < 20 * 2**20
