"""The Flower adapter of a data owner: message -> training -> message.

Node configuration (the owner's own): `client-id` or Flower's `partition-id`, and the words that `policy` lists.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import fedveil
from fedveil import checks
from fedveil.federation import federation
from fedveil.federation.federation import Federation
from fedveil_clients import policy, training
from fedveil_clients.sites import Site, open_site
from fedveil_clients.vault import Vault

app = ClientApp()


def client_id(context: Context, run: Federation) -> str:
    """Return the node's id in the public registry: its own `client-id`, or the one of its partition number."""
    if "client-id" in context.node_config:
        return str(context.node_config["client-id"])
    return run.registry[int(context.node_config["partition-id"])]


@functools.lru_cache(maxsize=8192)
def _site(
    run: Federation, run_id: str, name: str, node: policy.Node, state: _State, vault: str, first: int
) -> Site:
    torch.set_num_threads(1)  # equal bits on every engine
    return open_site(run, run_id, name, node, _tensors(state), first)


@functools.lru_cache(maxsize=2)
def _tensors(state: _State) -> dict[str, torch.Tensor]:
    """Decode a state once: a thousand clients of one process share it."""
    return state.tensors()


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
    """Tell the coordinator which client of the registry this node is and which vault it has; nothing about its data."""
    run = federation.kept(str(message.content.config_records["instruction"]["config"]))
    name = client_id(context, run)
    node = policy.node_of(name, context.node_config, run.data_id)
    answer: dict[str, Any] = {
        "client_id": name,
        "version": fedveil.__version__,
        "vault": Vault(node.vault(run)).identity(),
    }
    return Message(RecordDict({"client": ConfigRecord(answer)}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round and answer with the update, or with the owner's reason for refusing."""
    instruction = message.content.config_records["instruction"]
    config_json, run_id, number = (instruction[key] for key in ("config", "run_id", "round"))
    run, number = federation.kept(str(config_json)), int(str(number))
    name = client_id(context, run)
    node = policy.node_of(name, context.node_config, run.data_id)
    try:
        vault = Vault(node.vault(run)).identity()
        state = _State(message.content.array_records["state"])
        first = run.stage_of(number).first  # one site per stage
        site = _site(run, str(run_id), name, node, state, vault, first)
        tensors = {key: array.numpy() for key, array in message.content.array_records["tensors"].items()}
        update: dict[str, Any] = dict(training.train_round(site, number, tensors).tensors)
    except policy.PolicyRefusal as refusal:
        return _refusal(message, str(refusal))
    except checks.UserError as error:
        # Under a client-level claim a reason may tell what a client holds: it stays with the owner.
        return _refusal(message, str(error) if run.settings.privacy.client is None else "the client could not train")
    return Message(RecordDict({"update": ArrayRecord(_arrays(update))}), reply_to=message)


def _refusal(message: Message, reason: str) -> Message:
    return Message(RecordDict({"refusal": ConfigRecord({"reason": reason})}), reply_to=message)


def _arrays(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: Array(value) for name, value in tensors.items()}
