"""The Flower adapter of a data owner: message -> checked instruction -> training -> message.

What a node knows of itself comes from `node`, what it is asked from `received`. Whatever arrives is answered: with an
update, or with the owner's reason for refusing; never with a traceback.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import fedveil
from fedveil import checks
from fedveil.engine import arrays
from fedveil.federation.federation import Federation
from fedveil.federation.instruction import BadInstruction, plain_name
from fedveil_clients import asked as memory
from fedveil_clients import booking, local, policy, received, refusals, witness
from fedveil_clients import node as nodes
from fedveil_clients.node import Here, NodeError
from fedveil_clients.received import Content, Instruction
from fedveil_clients.sites import Site, open_site
from fedveil_clients.vault import Vault

_KINDS = ("query", "train")
_SILENT = "the client could not take part; its owner's log says why"


class OwnersApp(ClientApp):
    """A ClientApp that answers every message, those of a kind that it does not have included."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        try:
            if message.metadata.message_type not in _KINDS:
                raise BadInstruction(f"Expected a message of kind {' or '.join(_KINDS)}, nothing else is answered.")
            reply: Message = super().__call__(message, context)
            return reply
        except Exception as error:  # the last net: what was not foreseen stays with the owner
            return _refused(message, context, None, error)


app = OwnersApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Tell the coordinator which client of the registry this node is and which vault it has; nothing about its data.

    The floor is checked first, on what the settings say of the release: a refusal makes no vault, key or ledger.
    """
    asked: Instruction | None = None
    name = ""
    try:
        record = received.records(message, ("instruction",))["instruction"]
        asked = received.instruction_of(record, training=False)
        here = nodes.here(asked.run, nodes.words_of(context.node_config))
        name = here.client_id
        policy.check(here.run, here.node, here.run.planned_event)
        vault = Vault(here.node.vault())
        witness.of_node(here.node).check(vault)
        vault.not_ended(asked.run_id)
        answer: dict[str, Any] = {
            "client_id": name,
            "version": fedveil.__version__,
            "vault": vault.identity(),
            "run_id": asked.run_id,
        }
        if not here.node.simulated:
            memory.called(vault, asked, name)
    except Exception as error:  # told apart in one place
        return _refused(message, context, asked, error, name)
    return Message(RecordDict({"client": ConfigRecord(answer)}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round and answer with the update, or with the owner's reason for refusing."""
    asked: Instruction | None = None
    name = ""
    try:
        found = received.records(message, ("instruction", "state", "tensors"))
        asked = received.instruction_of(found["instruction"], training=True)
        here = nodes.here(asked.run, nodes.words_of(context.node_config))
        name = here.client_id
        policy.check(here.run, here.node, here.run.planned_event)
        policy.check_turn(here.run, name, asked.round)
        state, content = Content(found["state"], lasting=True), Content(found["tensors"])  # type: ignore[arg-type]
        received.state_of(asked.run, state)
        tensors, sent = received.tensors_of(asked.run, asked.round, state, content)
        vault, seen = Vault(here.node.vault()), witness.of_node(here.node)
        seen.check(vault)
        vault.not_ended(asked.run_id)
        vault.in_order(asked.run_id, name, asked.round, sent)
        identity = vault.identity()
        seen.begin(vault)
        site = _site_of(here, asked, state, identity)
        # One simulation's clients are thousands, and its coordinator is no stranger.
        again = vault.begin(asked.run_id, name, asked.round, sent, durable=not here.node.simulated)
        if not here.node.simulated:
            memory.called(vault, asked, name)
        if again and site.federation.private is not None:
            booking.repeated(site.federation, asked.run_id, vault, site.joining, asked.round)
        update = local.train_round(site.federation)(site, asked.round, tensors, arrays.room)
        _on_disk(site)
        seen.advance(vault)
    except Exception as error:  # told apart in one place
        return _refused(message, context, asked, error, name)
    about: dict[str, Any] = {"run_id": asked.run_id, "round": asked.round, "vault": identity}
    answer = arrays.record(update.tensors, arrays.is_local(found["tensors"]))  # type: ignore[arg-type]
    return Message(RecordDict({"reply": ConfigRecord(about), "update": answer}), reply_to=message)


def _site_of(here: Here, asked: Instruction, state: Content, vault: str) -> Site:
    first = asked.run.stage_of(asked.round).first  # one site per stage
    return _site(asked.run, asked.run_id, here.client_id, here.node, state, vault, first)


@functools.lru_cache(maxsize=8192)
def _site(
    run: Federation, run_id: str, name: str, node: policy.Node, state: Content, vault: str, first: int
) -> Site:
    torch.set_num_threads(1)  # equal bits on every engine
    return open_site(run, run_id, name, node, received.state_of(run, state), first)


def _on_disk(site: Site) -> None:
    """Wait until what the client gives is in its owner's ledger; a site whose booking failed is opened again."""
    try:
        site.booked.on_disk()
    except BaseException:
        _site.cache_clear()
        raise


def _refused(
    message: Message, context: Context, asked: Instruction | None, error: Exception, name: str = ""
) -> Message:
    """Return the reason as an answer, and write it down for the owner in full; it never fails itself.

    Reasons about the instruction or the owner's limits are told (`told`). Others may speak of what the owner has, so
    they are told to the same person alone (a simulation), and not even there under a client-level claim.
    """
    words: dict[str, Any] = dict(context.node_config)
    with contextlib.suppress(Exception):  # it may be the very reason
        words = nodes.words_of(words)
    refused = isinstance(error, (policy.PolicyRefusal, BadInstruction, NodeError))
    bare = str(error) if isinstance(error, (policy.PolicyRefusal, checks.UserError)) else ""
    full = bare or f"{type(error).__name__}: {_text(error)}"
    claimed = asked is not None and asked.run.settings.privacy.client is not None
    if isinstance(error, BadInstruction) or (words.get("simulated") is True and not claimed):
        told = full
    else:
        told = error.told if isinstance(error, (policy.PolicyRefusal, NodeError)) else _SILENT
    run_id = _named(message) if asked is None else asked.run_id
    with contextlib.suppress(Exception):  # it is in the log, whatever this meets
        if words.get("simulated") is not True:
            memory.refused(Path(words["vault-root"]).expanduser(), run_id, full, asked, name)
    return refusals.answer(message, words, run_id, full, told, refused, name)


def _text(error: Exception) -> str:
    """Return what an exception of anybody's code says."""
    try:
        return str(error)
    except Exception as inner:
        return f"it cannot say why ({type(inner).__name__})"


def _named(message: Message) -> str:
    """Return the run that an instruction names which cannot be followed, for the owner's log; empty unless plain."""
    with contextlib.suppress(Exception):
        return plain_name(message.content["instruction"]["run_id"], "run_id")
    return ""
