"""One process per device: the bits of one process, a death or a delay costs one client, no process is left.

Devices here are the processor twice: what differs on GPUs is where tensors are, and tests/device looks at that.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedveil import device
from fedveil.commands import simulate
from fedveil.engine import _flower
from fedveil.engine.gpus import GpuGrid
from fedveil.federation.federation import Federation
from fedveil_strategies import observers

APP = """
import os, time
from flwr.app import Array, ArrayRecord, Message, RecordDict

def app(message, context):
    if context.node_id == 2:
        os._exit(7)
    if context.node_id == 3:
        time.sleep(600)
    value = message.content.array_records["tensors"]["w"].numpy() + context.node_id
    words = context.node_config["device"].encode()
    found = ArrayRecord({"w": Array(value), "device": Array(__import__("numpy").frombuffer(words, "uint8"))})
    return Message(RecordDict({"found": found}), reply_to=message)
"""


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(observers, "draw", lambda *_: [])  # pictures cost more than these runs
    yield
    torch.set_num_threads(threads)
    assert multiprocessing.active_children() == []


@pytest.mark.slow  # waits for a deadline that has to leave fresh processes time to start
def test_a_death_and_a_delay_cost_one_client_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_app.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    grid = GpuGrid("some_app:app", _flower.Settings(5, {}, {"device": "auto"}), ["cpu", "mps"])
    try:
        content = RecordDict({"tensors": ArrayRecord({"w": Array(np.arange(3, dtype=np.float32))})})
        asked = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
        replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(asked, timeout=45.0)}
    finally:
        grid.close()
    assert sorted(replies) == [1, 2, 3, 4, 5]
    assert "exit code 7" in replies[2].error.reason
    assert "no answer within 45 s" in replies[3].error.reason
    words = set()
    for node in (1, 4, 5):
        found: Any = replies[node].content.array_records["found"]
        assert found["w"].numpy().tolist() == [node, node + 1.0, node + 2.0]
        words.add(found["device"].numpy().tobytes().decode())
    assert words <= {"cpu", "mps"}


def test_a_run_over_two_devices_is_the_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    for name, words in (("one", ["cpu"]), ("two", ["cpu", "cpu"])):
        monkeypatch.setattr(device, "shared", lambda word, words=words: words)
        run = Federation.of([
            "study=quick", "tracking=none", "evaluation.reference=false", "data.identities=8", "data.pairs=8",
            "data.evaluation_identities=4", "model.width=8", "train.clients=3", "train.rounds=2", "engine=pool",
            "engine.workers=2", "protection.fit_steps=0", "protection.init=zeros", "privacy.test_seed=1",
            "evaluation.draws=1", "evaluation.bootstrap=0", f"runs.root={tmp_path / name}",
            f"vault.root={tmp_path / name / 'vault'}",
        ])  # fmt: skip
        simulate.simulate(run, "run", "quiet")
        hashes.append(json.loads((tmp_path / name / "run" / "result.json").read_text())["model_sha256"])
    assert hashes[0] == hashes[1]
