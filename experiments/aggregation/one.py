"""Run ONE measurement in this process and print one line of JSON: `one.py WHAT KIND NUMBER`.

`sum`: NUMBER updates of IResNet-50 become a mean (`plain`, `client`, `grid`); four updates, which are there before,
take turns. `round`: a round of NUMBER nodes through the real ServerApp, whose fake ClientApp answers with one update:
`inline`, where the update is there before, or `superlink`, where each reply is fetched as bytes of its own, one of five
out of turn. The package is that of PYTHONPATH, so that one script measures any commit. Memory is the peak above what
the process held before the first answer, in float32 models.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

import fedveil
from fedveil import config
from fedveil.configuration.schema import Cohort
from fedveil.engine import _flower, arrays
from fedveil.engine.inline import InlineGrid
from fedveil.federation.federation import Federation
from fedveil.randomness import SecretStream
from fedveil.records import Update, model_sha256
from fedveil_strategies import app as server_app
from fedveil_strategies import coordinator, private, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg


def shapes() -> dict[str, tuple[int, ...]]:
    federation = Federation.of(["model=iresnet50", "protection=none", "data.size=32"])
    named = dict(federation.backbone().named_parameters())
    return {name: tuple(named[name].shape) for name in federation.trainable(named)}


def drawn(layout: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: 1e-3 * rng.standard_normal(shape, np.float32) for name, shape in layout.items()}


class Meter:
    """What this process uses from `start` to `stop`, and where its peak of memory is in between."""

    def start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._held = self._status("VmRSS")
        self._begun, self._used = time.perf_counter(), time.process_time()

    def stop(self) -> dict[str, float]:
        return {
            "wall": time.perf_counter() - self._begun,
            "cpu": time.process_time() - self._used,
            "peak_bytes": 1024 * (self._status("VmHWM") - self._held),
        }

    @staticmethod
    def _status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


def summed(kind: str, number: int, meter: Meter) -> str:
    layout = shapes()
    tensors = {name: np.zeros(shape, np.float32) for name, shape in layout.items()}
    few = [drawn(layout, seed) for seed in range(4)]
    registry = tuple(f"c{place}" for place in range(number))
    plan = rounds.Plan(1, registry, Cohort("fixed", size=number), 1, tuple(layout), None)
    answers = (Update(client, few[place % 4]) for place, client in enumerate(registry))
    for value in tensors.values():  # their pages are there
        value += 0
    meter.start()
    if kind == "plain":
        mean, _ = rounds.expected_mean(answers, plan, tensors)
    else:
        mechanism = private.Mechanism(1.0, clip=0.5, expected=number, kind="grid" if kind == "grid" else "real")
        total, count, _ = private.bounded_sums(answers, plan, tensors, mechanism, 0.5)
        took = time.process_time() - meter._used
        print(f"clipped and summed after {took:.2f} s of the processor", file=sys.stderr)
        mean = private.released(total, count, plan, tensors, mechanism, 0.5, SecretStream(bytes(32))).mean
        del total
    moved, _ = FedAvg().step(tensors, mean, {})
    meter.found = meter.stop()
    return model_sha256(moved)


class SuperLink(InlineGrid):
    """A grid whose replies are bytes of their own; one of five is there after all others."""

    local = False

    def __init__(self, *given):
        super().__init__(*given)
        self.at, self.places, self.looks = {}, {}, 0

    def push_messages(self, messages):
        names = []
        for message in messages:
            self._number(message)
            names.append(message.metadata.message_id)
            self.places[names[-1]] = len(self.places)
            asked = RecordDict({"instruction": message.content["instruction"]})  # another process has the tensors
            self.at[names[-1]] = Message(metadata=message.metadata, content=asked)
        return names

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages[0].metadata.message_type == "query":
            return super().send_and_receive(messages, timeout=timeout)
        names = self.push_messages(messages)  # as Flower's own: all that is there, in one list
        return [self._app(self.at[name], None) for name in names]

    def pull_messages(self, names):
        found = []
        for name in names:
            place = self.places[name]
            self.looks += 1
            if place % 5 == 0 and (self.looks <= len(self.places) and place):
                continue  # one of five is slow
            found.append(self._app(self.at.pop(name), None))
        return found


def round_of(kind: str, number: int, meter: Meter) -> str:
    layout = shapes()
    update = drawn(layout, 0)
    held = {name: Array(value) for name, value in update.items()} if kind == "superlink" else {}

    def client(message: Message, context: Context) -> Message:
        told = dict(message.content.config_records["instruction"]) if message.content.config_records else client.told
        client.told = told
        about = {"run_id": told["run_id"], "vault": "v"}
        if message.metadata.message_type == "query":
            said = ConfigRecord({**about, "client_id": "c0001", "version": fedveil.__version__})
            return Message(RecordDict({"client": said}), reply_to=message)
        if kind == "superlink":  # bytes of its own, as they come from a network
            copies = {name: (one, bytes(bytearray(one.data))) for name, one in held.items()}
            content = ArrayRecord({n: Array(one.dtype, one.shape, one.stype, c) for n, (one, c) in copies.items()})
        else:
            content = arrays.record(update, True)
        records = {"reply": ConfigRecord({**about, "round": told["round"]}), "update": content}
        return Message(RecordDict(records), reply_to=message)

    found = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        words = ["protection=none", f"train.clients={number}", f"data.identities={2 * number}",
                 "train.rounds=1", "train.cohort.kind=fixed", f"train.cohort.size={number}", "tracking=none",
                 f"runs.root={folder}"]  # fmt: skip
        federation = Federation.of(words)
        Federation.trainable = lambda self, names, stage=None: tuple(names)
        session = SimpleNamespace(run=SimpleNamespace(folder=Path(folder)))
        coordinator.open_session = lambda *_: session
        coordinator.report = lambda *_: None

        def coordinate(session, transport):
            plan = rounds.Plan(1, federation.registry, federation.settings.train.cohort, 1, tuple(layout), None)
            start = rounds.State(0, {name: np.ones(shape, np.float32) for name, shape in layout.items()}, {})
            meter.start()
            end = rounds.run(plan, start, lambda *asked: transport(*asked, {}), FedAvg(), [])
            meter.found = meter.stop()
            found.append(model_sha256(end.tensors))

        coordinator.coordinate = coordinate
        grid = (SuperLink if kind == "superlink" else InlineGrid)(client, _flower.Settings(number, {}, {}))
        given = {"config": config.to_json(federation.settings), "run-id": "run"}
        server_app.main(grid, Context(1, 1, {}, RecordDict(), given))
    return found[0]


if __name__ == "__main__":
    what, kind, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    meter = Meter()
    sha = {"sum": summed, "round": round_of}[what](kind, number, meter)
    model = 4 * sum(int(np.prod(shape)) for shape in shapes().values())
    row = {
        "what": what, "kind": kind, "updates": number, "numbers": model // 4,
        "wall_seconds": round(meter.found["wall"], 3), "cpu_seconds": round(meter.found["cpu"], 3),
        "peak_models": round(meter.found["peak_bytes"] / model, 2), "sha256": sha[:16],
        "package": Path(inspect.getfile(rounds)).parents[2].name,  # of its checkout
        "load": round(os.getloadavg()[0], 1), "faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt,
    }  # fmt: skip
    print(json.dumps(row))
