"""From Flower's replies to updates and failures; whatever a node sends concerns that node alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message

from fedveil.federation import packed
from fedveil.federation.instruction import BadInstruction
from fedveil.records import Failure, Update

_REASON = 300  # characters
OTHER_VAULT = "its vault is another one than at the roll call: its noisy copies were drawn again"
_NO_ANSWER = (3, 4, 5)  # flwr.common.constant.ErrorCode: the message, its reply or the node is not available (any more)


@dataclasses.dataclass(frozen=True)
class Asked:
    """The messages of one round, and what an answer to them has to be.

    Attributes:
        run_id: the run.
        round: its round: an answer to another one counts nowhere.
        messages: node -> what it was sent; ids are given while messages are sent.
        clients: node -> client.
        shapes: name -> shape of the tensors of an update.
        vault_of: client -> the vault that it has said it has.
        seconds: what they were given.
    """

    run_id: str
    round: int
    messages: Mapping[int, Message]
    clients: Mapping[int, str]
    shapes: Mapping[str, tuple[int, ...]]
    vault_of: Callable[[str], str]
    seconds: float


def answers(
    replies: Iterable[Message], asked: Asked, changed: Callable[[int, str], None]
) -> Iterator[Update | Failure]:
    """Turn replies into updates and failures, as they come; a reply to something else is dropped, silence is late.

    Args:
        replies: from the grid.
        asked: what was asked.
        changed: told (node, client) of a node that has another vault than it said.
    """
    silent = dict(asked.clients)
    for reply in replies:
        node = _node_of(reply, asked)
        if node is None:
            continue
        silent.pop(node, None)
        client = asked.clients[node]
        found = failure(reply, client) or _update(reply, client, asked)
        if isinstance(found, str):
            changed(node, client)
            found = Failure(client, found)
        handed = [found]
        del reply, found  # whoever is handed it alone holds it: an engine on this machine uses its memory again
        yield handed.pop()
    for client in silent.values():
        yield Failure(client, f"no answer within {asked.seconds:g} s (engine.round_timeout)", "late")


def _node_of(reply: Message, asked: Asked) -> int | None:
    """Return which of the asked nodes this answers for; None for an answer to another round, run or question.

    Where a node cannot be reached, its SuperLink answers in its place.
    """
    node = reply.metadata.src_node_id
    if node in asked.messages:
        return node if reply.metadata.reply_to_message_id == asked.messages[node].metadata.message_id else None
    if not reply.has_error():
        return None
    ids = {message.metadata.message_id: node for node, message in asked.messages.items()}
    return ids.get(reply.metadata.reply_to_message_id)


def failure(reply: Message, client: str) -> Failure | None:
    """Return why a reply is none, or None for one that may be; without a `client`, the one that it names."""
    if reply.has_error():
        kind = "late" if reply.error.code in _NO_ANSWER else "failed"
        return Failure(client, one_line(str(reply.error.reason)), kind)  # type: ignore[arg-type]  # one of two
    record = reply.content.get("refusal")
    if not isinstance(record, ConfigRecord):
        return None
    given = {key: value for key, value in record.items() if isinstance(value, str)}
    reason = one_line(given.get("reason", "it gives no reason"))
    named = client or one_line(given.get("client_id", ""))[:40]
    return Failure(named, reason, "refused" if given.get("kind") == "refused" else "failed")


def _update(reply: Message, client: str, asked: Asked) -> Update | Failure | str:
    """Return an update, a failure, or, as text, that the client's vault is another one."""
    records = dict(reply.content.items())
    about, update = records.get("reply"), records.get("update")
    whole = set(records) == {"reply", "update"}
    if not whole or not isinstance(about, ConfigRecord) or not isinstance(update, ArrayRecord):
        names = sorted(one_line(name)[:40] for name in records)[:9]
        return Failure(client, f"a reply with the records {names} instead of one update")
    if about.get("run_id") != asked.run_id or about.get("round") != asked.round:
        shown = one_line(repr((about.get("run_id"), about.get("round"))))
        return Failure(client, f"an answer to run and round {shown} in round {asked.round}", "late")
    if about.get("vault") != asked.vault_of(client):
        return OTHER_VAULT
    try:
        return Update(client, packed.tensors(dict(update.items()), asked.shapes, finite=False, own=False))
    except BadInstruction as error:
        return Failure(client, f"an update that cannot be read: {one_line(str(error))}")


def one_line(reason: str) -> str:
    """Return a reason that fits a log's line and no terminal obeys: ours begin with a file, Ray's end with why."""
    ends = reason if len(reason) <= 20 * _REASON else reason[: 10 * _REASON] + reason[-10 * _REASON :]
    words = " ".join("".join(sign if sign.isprintable() else " " for sign in ends).split())
    return words if len(words) <= _REASON else f"{words[: _REASON // 2]} ... {words[-_REASON // 2 :]}"
