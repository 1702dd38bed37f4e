"""A SuperLink's client for one reply: what is too large, too slow or no answer to the question ends here.

A reply is a tree of objects: a message, its records, their arrays, and parts of 5 MiB that arrays name by number. This
sees each as it comes, before Flower unpacks any (flwr.supercore.inflatable).
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_object_head_values_from_object_content,
    iterate_object_tree,
)  # fmt: skip

_WORDS = 1 << 22  # bytes of everything but arrays' values: names, shapes, which part is where
_HEADER = 1 << 10  # bytes before an array's values
_SMALLEST = 1 << 16  # bytes of a part, on average


class Refused(Exception):
    """A reply is larger, or of more parts, than it may be."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a reply may be.

    Attributes:
        values: bytes of its arrays' values.
        arrays: how many arrays.
        until: `time.monotonic` at which nobody waits any more for parts that are not there.
    """

    values: int
    arrays: int
    until: float

    @property
    def most(self) -> int:
        """Bytes of all arrays as files."""
        return self.values + _HEADER * self.arrays

    @property
    def parts(self) -> int:
        """How many objects a reply may consist of."""
        return 100 + 4 * self.arrays + self.most // _SMALLEST


class Guard:
    """Flower's client, which hands on no more of one reply than it may be.

    Args:
        client: flwr.supercore.runtime.RuntimeHttpClient.
        bounds: of the reply.

    Attributes:
        broken: what asking the SuperLink has raised; everything else is the reply's fault.
    """

    def __init__(self, client: Any, bounds: Bounds) -> None:
        self.broken: BaseException | None = None
        self._client, self._bounds = client, bounds
        self._lock = threading.Lock()  # parts are fetched by two threads
        self._sizes: dict[str, int] = {}  # part of an array -> bytes of values
        self._arrays: dict[str, bytes] = {}  # array -> what it says of itself: which parts, and in which order
        self._others: set[str] = set()
        self._values, self._words = 0, 0
        self._left: dict[str, Any] = {}  # reply whose parts are still at the SuperLink -> how they are confirmed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def PullMessages(self, request: Any) -> Any:
        """Return the replies to what was asked and to nothing else.

        Raises:
            Refused: too many parts.
        """
        found = self._asked(self._client.PullMessages, request)
        pairs = [
            (message, tree)
            for message, tree in zip(found.messages_list, found.message_object_trees, strict=True)
            if message.metadata.reply_to_message_id in request.message_ids
        ][:1]
        for message, tree in pairs:
            self._left[message.metadata.message_id] = message.metadata.run_id
            if sum(1 for _ in iterate_object_tree(tree)) > self._bounds.parts:
                raise Refused(f"it has more than {self._bounds.parts} parts")
        del found.messages_list[:], found.message_object_trees[:]
        found.messages_list.extend(message for message, _ in pairs)
        found.message_object_trees.extend(tree for _, tree in pairs)
        return found

    def PullObject(self, request: Any) -> Any:
        """Return a part; what is not there when time is up is not to be had.

        Raises:
            Refused: all of it together is too large.
        """
        found = self._asked(self._client.PullObject, request)
        if found.object_available:
            self._weigh(request.object_id, found.object_content)
        elif time.monotonic() >= self._bounds.until:
            found.object_found = False
        return found

    def ConfirmMessageReceived(self, request: Any) -> Any:
        """Let the SuperLink forget a reply, which is unpacked next.

        Raises:
            Refused: unpacked it would be too large.
        """
        done = self._asked(self._client.ConfirmMessageReceived, request)
        self._left.pop(request.message_object_id, None)
        size = sum(self._unpacked(content) for content in self._arrays.values())
        if size > self._bounds.most:
            raise Refused(f"it unpacks to more than {self._bounds.most:,} bytes")
        return done

    def drop(self) -> None:
        """Let the SuperLink forget a reply that was not fetched whole."""
        for name, run in self._left.items():
            request = ConfirmMessageReceivedRequest(run_id=run, message_object_id=name)
            self._client.ConfirmMessageReceived(request)

    def _asked(self, ask: Callable[[Any], Any], request: Any) -> Any:
        try:
            return ask(request)
        except BaseException as error:
            self.broken = error
            raise

    def _weigh(self, name: str, content: bytes) -> None:
        with self._lock:
            if name in self._sizes or name in self._arrays or name in self._others:
                return  # it has several places
            head = content[: content.find(b"\0") + 1]
            if head.startswith(b"ArrayChunk "):
                self._sizes[name] = len(content) - len(head)
                self._values += self._sizes[name]
                self._words += len(head)
            else:
                self._words += len(content)
                if head.startswith(b"Array "):
                    self._arrays[name] = content
                else:
                    self._others.add(name)
            if self._values > self._bounds.most:
                raise Refused(f"its arrays have more than {self._bounds.most:,} bytes")
            if self._words > _WORDS:
                raise Refused(f"it has more than {_WORDS:,} bytes beside its arrays' values")

    def _unpacked(self, content: bytes) -> int:
        """Return how large an array is that says which parts it has, some of them often; of anything else it has none.

        Raises:
            Exception: what it says cannot be read.
        """
        _, parts, _ = get_object_head_values_from_object_content(content)
        named = json.loads(content[content.find(b"\0") + 1 :])["arraychunk_ids"]
        return sum(self._sizes[parts[place]] for place in named)
