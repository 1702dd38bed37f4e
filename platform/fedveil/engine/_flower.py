"""Flower's internals: task identity, message ids, wire format (and `arrays.filled`); tested per version."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

ClientApp = Callable[[Message, Context], Message]
_RUN_ID = 1
_CLIENT_FAILED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION
NO_ANSWER = 4  # flwr.common.constant.ErrorCode.REPLY_MESSAGE_UNAVAILABLE: the deadline has passed


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an engine needs to know of a run.

    Attributes:
        clients: number of simulated nodes; their ids are 1..clients.
        run_config: handed to both apps.
        node_config: handed to every ClientApp, with `partition-id` and `num-partitions` added.
        workers: processes (pool).
        wire: serialise and parse every message.
    """

    clients: int
    run_config: Mapping[str, Any]
    node_config: Mapping[str, Any]
    workers: int = 1
    wire: bool = False


def identify() -> None:
    """Tell Flower who is speaking: a process must have an identity before it builds a message."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = _RUN_ID
    TaskIdentity.node_id = 1


def client_context(settings: Settings, node_id: int) -> Context:
    """Return a fresh context of node `node_id` (1-based)."""
    place = {"partition-id": node_id - 1, "num-partitions": settings.clients}
    return Context(
        run_id=_RUN_ID,
        node_id=node_id,
        node_config={**settings.node_config, **place},
        state=RecordDict(),
        run_config=dict(settings.run_config),
    )


def server_context(settings: Settings) -> Context:
    """Return the ServerApp's context."""
    return Context(run_id=_RUN_ID, node_id=1, node_config={}, state=RecordDict(), run_config=dict(settings.run_config))


def number(message: Message, name: str) -> None:
    """Give a message the id that its reply will refer to; Flower leaves this to its SuperLink."""
    message.metadata.__dict__["_message_id"] = name


def to_bytes(message: Message) -> bytes:
    """Return a message as it would cross a network."""
    data: bytes = message_to_proto(message).SerializeToString()
    return data


def from_bytes(data: bytes) -> Message:
    """Return the message that `to_bytes` wrote."""
    return message_from_proto(ProtoMessage.FromString(data))


def rebuilt(metadata: Any, content: RecordDict | None = None, error: tuple[int, str] | None = None) -> Message:
    """Return a message of given metadata: Flower's own way, which its public overloads leave out."""
    if error is not None:
        return Message(metadata=metadata, error=Error(code=error[0], reason=error[1]))  # type: ignore[call-overload,no-any-return]
    return Message(metadata=metadata, content=content)  # type: ignore[call-overload,no-any-return]


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """Run a ClientApp on a message; an exception becomes an error reply with the reason, as in Flower's engine."""
    try:
        return app(message, context)
    except Exception as error:  # the app is foreign code: whatever it raises concerns this client alone
        return failure(message, f"{type(error).__name__}: {error}")


def failure(message: Message, reason: str, code: int = _CLIENT_FAILED) -> Message:
    """Return the error reply to a message."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def late(message: Message, seconds: float) -> Message:
    """Return the error reply to a message that was not answered within its deadline."""
    return failure(message, f"no answer within {seconds:g} s (engine.round_timeout)", NO_ANSWER)


class LocalGrid(Grid):
    """The half of a Flower Grid that engines on one machine share: node ids, runs, push and pull by waiting.

    Nodes are uniform: one person, one machine, one vault. Node i is the registry's client i - 1, and what one of them
    says of itself holds for all, so nobody has to ask each of a million.
    """

    uniform = True
    local = True  # records may hold values instead of bytes (`arrays`)

    def __init__(self, settings: Settings) -> None:
        identify()
        self.settings = settings
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def set_run(self, run: Any) -> None:
        """Not needed: a local grid serves one run."""

    @property
    def run(self) -> Any:
        """Refused: a local grid has no record of a SuperLink's run."""
        raise RuntimeError("A local grid has no SuperLink run.")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return `Message(...)`; kept because the Grid interface has it."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Sequence[int]:
        """Return 1..clients, none of them written out."""
        return range(1, self.settings.clients + 1)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Answer the messages now and keep the replies for `pull_messages`."""
        replies = list(self.send_and_receive(messages))
        self._replies.update({reply.metadata.reply_to_message_id: reply for reply in replies})
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return kept replies, each once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def close(self) -> None:
        """Stop whatever runs."""

    def _number(self, message: Message) -> None:
        self._sent += 1
        number(message, f"m{self._sent}")
