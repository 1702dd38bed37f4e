"""A worker of the pool: one process that answers one message at a time; and the parent's handle on it.

A worker has its own session: Ctrl-C reaches the parent alone, which stops it, and the kernel shares the processor by
session. It dies with its parent whatever happens to that. It touches no accelerator before its first message, so a
device that the app initialises is initialised in the worker alone; `spawn` is for a parent that has one itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch
from flwr.app import Message, RecordDict

from fedveil.engine import _flower, _parcel, arrays
from fedveil.engine._flower import ClientApp, Settings
from fedveil.engine._parcel import Packed
from fedveil.engine._shared import Memory, Writer

Start = Literal["fork", "spawn"]
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Posted:
    """A content that many messages share, as it stands in the parent's memory.

    Attributes:
        number: tells it from earlier ones.
        size: bytes of it.
        packed: what is not an array's values.
    """

    number: int
    size: int
    packed: Packed


@dataclasses.dataclass(frozen=True)
class Task:
    """One message: its metadata, its content where this worker has not had it, and where the answer may go."""

    posted: Posted | None
    metadata: Any
    slot: tuple[int, int]


Answer = tuple[Any, tuple[int, str] | None, Packed]
"""Metadata, (code, reason) of an error, content."""


class Worker:
    """The parent's handle: the pipe, the message that the worker has, and since when."""

    def __init__(
        self, app: ClientApp, settings: Settings, start: Start, memories: tuple[Memory, Memory],
        others: Sequence[Worker],
    ) -> None:  # fmt: skip
        context = multiprocessing.get_context(start)
        self.pipe, theirs = context.Pipe()
        inherited = [worker.pipe for worker in others] + [self.pipe] if start == "fork" else []
        self.process = context.Process(  # type: ignore[attr-defined]  # both kinds have it
            target=_serve, args=(app, settings, memories, theirs, inherited, os.getpid()), daemon=True
        )
        self.process.start()
        theirs.close()
        self.message: Message | None = None
        self.since = 0.0  # when it began, time.monotonic()
        self.slot = (0, 0)  # where its answer may go: begin, bytes
        self._had = 0  # number of the content that it has

    def ask(self, message: Message, posted: Posted, slot: tuple[int, int]) -> None:
        """Give an idle worker a message."""
        self.message, self.since, self.slot = message, time.monotonic(), slot
        new = posted.number != self._had
        self._had = posted.number
        with contextlib.suppress(OSError):  # a dead worker is noticed when its answer is awaited
            self.pipe.send(Task(posted if new else None, message.metadata, slot))

    def stop(self, at_once: bool = False) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        if not at_once:
            self.process.terminate()
            self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(5)  # no signal reaches a process that waits for a disk: it ends when the disk answers


def _serve(
    app: ClientApp, settings: Settings, memories: tuple[Memory, Memory], pipe: Connection, inherited: Sequence[Any],
    parent: int,
) -> None:  # fmt: skip
    """Answer messages until the pipe closes."""
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(parent)
    gc.freeze()  # what was there before is shared with the parent as long as nobody counts it
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    _flower.identify()
    board, slots = (Memory(handle=memory.handle) for memory in memories)
    contexts: dict[int, Any] = {}
    content = RecordDict()
    with contextlib.suppress(EOFError, OSError):
        while True:
            task: Task = pipe.recv()
            if task.posted is not None:
                content = _parcel.together(task.posted.packed, board.seen(task.posted.size))
            node = task.metadata.dst_node_id
            place = contexts.setdefault(node, _flower.client_context(settings, node))
            begin, width = task.slot
            writer = Writer(memoryview(slots.seen(begin + width, write=True))[begin : begin + width])
            arrays.use_room(writer.room)
            answer = _flower.answer(app, _flower.rebuilt(task.metadata, _parcel.own(content)), place)
            arrays.use_room(None)
            pipe.send(_answer(answer, writer))
            del answer, writer
    os._exit(0)


def _answer(answer: Message, writer: Writer) -> Answer:
    if answer.has_error():
        return answer.metadata, (answer.error.code, str(answer.error.reason)), []
    return answer.metadata, None, _parcel.apart(answer.content, writer.put)


def _die_with(parent: int) -> None:
    """Ask Linux to end this process with its parent, even when that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
