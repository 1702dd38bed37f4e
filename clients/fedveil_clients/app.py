"""The Flower adapter of a data owner: message -> training -> message.

Node configuration (the owner's own): `client-id` or Flower's `partition-id`; `data-set`, `floor`, `max-epsilon`,
`allow-test-seed` (see `policy`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import fedveil
from fedveil import checks, config
from fedveil.data import partition
from fedveil_clients import policy, training

app = ClientApp()


def client_id(context: Context, count: int) -> str:
    """Return the node's id in the public registry: its own `client-id`, or the one of its partition number."""
    if "client-id" in context.node_config:
        return str(context.node_config["client-id"])
    return partition.client_ids(count)[int(context.node_config["partition-id"])]


@functools.lru_cache(maxsize=512)
def _site(config_json: str, run_id: str, name: str, node: policy.Node, state: _State) -> training.Site:
    torch.set_num_threads(1)  # equal bits on every engine
    return training.open_site(config.from_json(config_json), run_id, name, node, state.tensors())


class _State:
    """The protection's public state, hashable by content so that a site is opened once per state."""

    def __init__(self, record: ArrayRecord) -> None:
        self._record = record
        self._id = tuple((name, array.dtype, tuple(array.shape), array.data) for name, array in sorted(record.items()))

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and self._id == other._id

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array.numpy()) for name, array in self._record.items()}


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Tell the coordinator which client of the registry this node is; nothing about its data."""
    settings = config.from_json(str(message.content.config_records["instruction"]["config"]))
    answer = ConfigRecord({"client_id": client_id(context, settings.train.clients), "version": fedveil.__version__})
    return Message(RecordDict({"client": answer}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round and answer with the update, or with the owner's reason for refusing."""
    instruction = message.content.config_records["instruction"]
    config_json, run_id, number = (instruction[key] for key in ("config", "run_id", "round"))
    settings = config.from_json(str(config_json))
    name = client_id(context, settings.train.clients)
    node = policy.node_of(name, context.node_config, settings.data.name)
    try:
        site = _site(str(config_json), str(run_id), name, node, _State(message.content.array_records["state"]))
        tensors = {key: array.numpy() for key, array in message.content.array_records["tensors"].items()}
        update: dict[str, Any] = dict(training.train_round(site, int(str(number)), tensors).tensors)
    except (policy.PolicyRefusal, checks.UserError) as refusal:
        return Message(RecordDict({"refusal": ConfigRecord({"reason": str(refusal)})}), reply_to=message)
    return Message(RecordDict({"update": ArrayRecord(_arrays(update))}), reply_to=message)


def _arrays(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: Array(value) for name, value in tensors.items()}
