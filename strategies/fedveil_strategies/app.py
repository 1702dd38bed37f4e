"""The Flower adapter of the coordinator: Grid -> transport -> `coordinator.coordinate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

import fedveil
from fedveil import checks, config
from fedveil.federation import federation, planning
from fedveil.federation.federation import Federation
from fedveil.records import Failure, Tensors, Update
from fedveil_strategies import coordinator

app = ServerApp()
_REASON = 300  # characters


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation over the nodes of `grid`. Run configuration: `config` (JSON), `run-id`, `progress`, `parent`."""
    run = federation.kept(str(context.run_config["config"]))
    run_id, told = str(context.run_config.get("run-id", "")), config.to_json(run.settings)
    planning.check_planned(run.settings)
    torch.set_num_threads(1)  # equal bits on every engine
    nodes, vaults = roll_call(grid, run, told)

    def transport(
        round_number: int, cohort: Sequence[str], tensors: Tensors, state: Mapping[str, Any]
    ) -> Iterator[Update | Failure]:
        absent = [client for client in cohort if client not in nodes]
        yield from (Failure(client, "not connected") for client in absent)
        # One content for all: the pool engine broadcasts it once.
        content = RecordDict(
            {
                "instruction": ConfigRecord(
                    {"config": told, "run_id": opened.run_id, "round": round_number}
                ),
                "tensors": ArrayRecord({name: Array(value) for name, value in tensors.items()}),
                "state": ArrayRecord({name: Array(value.numpy()) for name, value in state.items()}),
            }
        )
        present = [client for client in cohort if client in nodes]
        messages = [
            Message(content, dst_node_id=nodes[client], message_type="train", group_id=str(round_number))
            for client in present
        ]
        yield from answers(grid.send_and_receive(messages), {nodes[client]: client for client in present})

    progress, parent = str(context.run_config.get("progress", "auto")), str(context.run_config.get("parent", ""))
    opened = coordinator.open_session(run, run_id, progress, parent, vaults)
    coordinator.coordinate(opened, transport)


def roll_call(grid: Grid, run: Federation, told: str) -> tuple[dict[str, int], dict[str, str]]:
    """Ask every node which client of the public registry it is; return client id -> node id, and -> vault identity.

    Raises:
        fedveil.checks.UserError: two nodes claim one id, or a node runs another version of fedveil.
    """
    content = RecordDict({"instruction": ConfigRecord({"config": told})})
    queries = [Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    known = run.registry
    found: dict[str, int] = {}
    vaults: dict[str, str] = {}
    for reply in grid.send_and_receive(queries):
        if reply.has_error():
            raise checks.UserError(f"Node {reply.metadata.src_node_id} did not say who it is: {reply.error.reason}")
        answer = reply.content.config_records["client"]
        name, version = str(answer["client_id"]), str(answer["version"])
        if version != fedveil.__version__:
            raise checks.UserError(
                f"Client {name} runs fedveil {version}, the coordinator {fedveil.__version__}; install equal versions."
            )
        if name not in known:
            raise checks.UserError(
                f"Node {reply.metadata.src_node_id} says that it is client {name!r}; the registry of "
                f"train.clients={len(known)} has {known[0]} to {known[-1]}. Set client-id in the node's configuration."
            )
        if name in found:
            raise checks.UserError(f"Two nodes say that they are client {name}; give every node its own client-id.")
        found[name], vaults[name] = reply.metadata.src_node_id, str(answer["vault"])
    if not found:
        raise checks.UserError("No client is connected: start the nodes first.")
    return found, vaults


def answers(replies: Iterable[Message], clients: Mapping[int, str]) -> Iterator[Update | Failure]:
    """Turn Flower replies into updates and failures, as they come."""
    for reply in replies:
        client = clients.get(reply.metadata.src_node_id)
        if client is None:
            continue
        if reply.has_error():
            yield Failure(client, _one_line(str(reply.error.reason)))
        elif "refusal" in reply.content:
            yield Failure(client, _one_line(str(reply.content.config_records["refusal"]["reason"])))
        elif list(reply.content) != ["update"] or "update" not in reply.content.array_records:
            yield Failure(client, f"a reply with the records {sorted(reply.content)} instead of one update")
        else:
            yield _update(client, reply.content.array_records["update"])


def _update(client: str, arrays: ArrayRecord) -> Update | Failure:
    try:
        return Update(client, {name: array.numpy() for name, array in arrays.items()})
    except Exception as error:  # bytes from outside: whatever decoding them raises concerns this client alone
        return Failure(client, f"an update that cannot be read: {type(error).__name__}: {error}")


def _one_line(reason: str) -> str:
    """Return a reason that fits a log's line: ours begin with a file's name, Ray's end with what happened."""
    words = " ".join(reason.split())
    return words if len(words) <= _REASON else f"{words[: _REASON // 2]} ... {words[-_REASON // 2 :]}"
