"""The same work as a Flower app of its own, for Flower's Ray engine: plain FedAvg, the local steps of the bare loop."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import cases
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client = ClientApp()
known: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}


@functools.lru_cache(maxsize=1)
def bench(name: str, folder: str) -> cases.Bench:
    torch.set_num_threads(1)
    federation = cases.federation_of(cases.CASES[name], Path(folder))
    federation.check()
    return cases.Bench(federation)


@client.train()
def train(message: Message, context: Context) -> Message:
    told = dict(message.content["config"])
    work = bench(str(told["case"]), str(told["folder"]))
    work.backbone.load_state_dict(message.content["arrays"].to_torch_state_dict())
    name = work.federation.registry[int(context.node_config["partition-id"])]
    work.train(int(told["server-round"]), name, known)
    arrays = ArrayRecord(work.backbone.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 64})}), reply_to=message)


def run(case: cases.Case, name: str, folder: Path, mark: Callable[[], None]) -> None:
    """Run Flower's own simulation: two workers of one processor each, at normal priority. The fixed cases only."""
    os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    size = int(case.cohort[-1].rpartition("=")[2])

    class Timed(FedAvg):
        def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
            found = super().aggregate_train(server_round, replies)
            mark()
            return found

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Timed(
            fraction_train=size / case.clients, fraction_evaluate=0.0, min_train_nodes=size,
            min_available_nodes=case.clients,
        )  # fmt: skip
        strategy.start(
            grid=grid, initial_arrays=ArrayRecord(bench(name, str(folder)).backbone.state_dict()),
            num_rounds=case.rounds, train_config=ConfigRecord({"case": name, "folder": str(folder)}),
        )  # fmt: skip

    mark()
    run_simulation(
        server, client, num_supernodes=case.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 2, "include_dashboard": False},
        },
    )  # fmt: skip


