"""What one node's reply may cost: bounded memory, bounded time, and no other node its place or the run its life.

Flower's grid (flwr.superlink.grid.http_grid, `pull_messages`) fetches all that a reply says it consists of, waits two
hours for parts that its sender keeps back, lets an array name one part a million times, and raises what unpacking them
raises. Who has answered what it reads from the reply's own bytes; a SuperLink checks a copy of these words, and nobody
compares the two. So a grid is asked through a guard here, and an answer counts for the question that was asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedveil_strategies.guard import Bounds, Guard

_FAILED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def pulled(grid: Grid, question: Message, bounds: Bounds) -> list[Message]:
    """Return the one reply to a message, or none where there is none yet.

    A reply that cannot be read, is not bounded or says that it answers something else is an error of its sender's.

    Raises:
        Exception: what asking the SuperLink raises.
    """
    name = question.metadata.message_id
    with _guarded(grid, bounds) as guard:
        try:
            found = [*grid.pull_messages([name])][:1]
        except Exception as error:  # foreign bytes: whatever unpacking them raises concerns their sender alone
            if guard is None or error is guard.broken:
                raise
            guard.drop()
            return [_failed(question, f"its reply cannot be read: {type(error).__name__}: {error}")]
    return [reply if _answers(reply, question) else _failed(question, "its reply names another") for reply in found]


def _answers(reply: Message, question: Message) -> bool:
    about = reply.metadata
    if about.reply_to_message_id != question.metadata.message_id:
        return False
    if reply.has_error():  # a SuperLink's, in the place of a node that is gone, too
        return True
    return about.src_node_id == question.metadata.dst_node_id and isinstance(reply.content, RecordDict)


def _failed(question: Message, reason: str) -> Message:
    return Message(Error(_FAILED, reason[:1000]), reply_to=question)


@contextlib.contextmanager
def _guarded(grid: Grid, bounds: Bounds) -> Iterator[Guard | None]:
    """Have a grid of a SuperLink ask through a guard; None for a grid without a network."""
    client = getattr(grid, "_runtime_client", None)
    if client is None:
        yield None
        return
    inside: Any = grid
    guard = inside._client = Guard(client, bounds)
    try:
        yield guard
    finally:
        if inside._client is guard:
            inside._client = client
