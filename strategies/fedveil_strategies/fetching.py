"""The replies of real nodes, fetched one at a time as they come.

Flower's own `send_and_receive` looks every three seconds, fetches whatever is there and returns all of it together: a
hundred updates in the coordinator's memory. A SuperLink keeps a reply until it is fetched, and is asked for one by its
message's id. So the coordinator asks for one after the other, in the order of the sum, and holds the one that it has.

None is left there until its turn has come. A SuperLink answers for a node that is gone, even one that had answered
before (flwr.server.superlink.linkstate, `get_message_res`): the longer an answer waits there, the likelier it is lost.
And what waits there may be memory of the same machine. `early` keeps what is before its turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedveil_strategies import bounded
from fedveil_strategies.guard import Bounds

_TOGETHER = 32  # messages in one request: each comes with a list of all arrays in it, and a server limits a request
_SHORTEST, _LONGEST = 0.05, 2.0  # seconds between two looks at all
_NOT_TAKEN = 3  # flwr.common.constant.ErrorCode.MESSAGE_UNAVAILABLE


def replies(
    grid: Grid, messages: dict[int, Message], seconds: float, values: int, arrays: int
) -> Iterator[Message]:
    """Send messages and yield their replies, those that are there in the messages' order.

    At the deadline it looks once more for each, and takes what is there whole. Nothing is yielded for whoever has not
    answered. A message that the SuperLink does not take is answered by an error, and so is one whose reply is larger
    than it may be, cannot be read or names somebody else (`bounded`).

    Args:
        grid: Flower's, of a SuperLink.
        messages: node -> message. Once they have been sent, each is replaced by one of the same metadata without a
            content: the SuperLink has it, and the coordinator needs it no more.
        seconds: from when everything has been sent to the deadline.
        values: bytes of the values in a reply's arrays.
        arrays: how many arrays a reply has.
    """
    nodes = list(messages)
    taken: set[str] = set()
    for start in range(0, len(nodes), _TOGETHER):
        taken.update(_pushed(grid, [messages[node] for node in nodes[start : start + _TOGETHER]]))
    for node in nodes:
        messages[node] = Message(metadata=messages[node].metadata, content=RecordDict())  # type: ignore[call-overload]
    end = time.monotonic() + seconds
    bounds = Bounds(values, arrays, end)
    silent: list[Message] = []
    for message in messages.values():
        if message.metadata.message_id in taken:
            silent.append(message)
        else:
            yield Message(Error(_NOT_TAKEN, "the SuperLink did not take its message"), reply_to=message)
    pause, last = _SHORTEST, False
    while silent and not last:
        begun, before = time.monotonic(), len(silent)
        last = begun >= end
        still: list[Message] = []
        for message in silent:
            found = bounded.pulled(grid, message, bounds)
            if not found:
                still.append(message)
            while found:  # nobody holds here what has been yielded
                yield found.pop(0)
        silent = still
        pause = _SHORTEST if len(silent) < before else min(2 * pause, _LONGEST)
        if silent and not last:  # who asks for many at once is at most half of the time asking
            time.sleep(max(0.0, min(max(pause, time.monotonic() - begun), end - time.monotonic())))


def _pushed(grid: Grid, messages: Sequence[Message]) -> list[str]:
    """Send messages and return the ids of those that were taken."""
    return [name for name in grid.push_messages(messages) if name]
