"""The pool engine: persistent forked workers; a round's common content is broadcast once through shared memory.

A client always goes to the same worker (its open data stay there). At most two messages per worker are on their way, so
memory does not grow with the cohort. Workers have their own session (Ctrl-C reaches the parent alone, which stops them)
and die with the parent whatever happens to it. A worker that dies, or works on one message for longer than the deadline
and is killed, fails the client it was working on and is replaced; the others' messages are worked on all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

import torch
from flwr.app import Message, RecordDict

from fedveil.engine import _flower
from fedveil.engine._flower import ClientApp, LocalGrid, Settings

_DEPTH = 2
_PR_SET_PDEATHSIG = 1


class _Worker:
    """One forked process: its pipe, and the messages it has been given and has not answered."""

    def __init__(self, app: ClientApp, settings: Settings, board: mmap.mmap, others: list[_Worker]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        inherited = [worker.pipe for worker in others] + [self.pipe]
        self.process = context.Process(
            target=_serve, args=(app, settings, board, theirs, inherited, os.getpid()), daemon=True
        )
        self.process.start()
        theirs.close()
        self.pending: deque[Message] = deque()
        self.since = 0.0  # when it began to work on the first of them, time.monotonic()

    def stop(self, at_once: bool = False) -> None:
        with contextlib.suppress(OSError):
            self.pipe.close()
        if not at_once:
            self.process.terminate()
            self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(5)  # no signal reaches a process that waits for a disk: it ends when the disk answers


def _left(busy: list[_Worker], timeout: float | None) -> float | None:
    """Return the seconds until the first of these workers is late; None: never."""
    return None if timeout is None else max(0.0, min(worker.since for worker in busy) + timeout - time.monotonic())


def _serve(
    app: ClientApp, settings: Settings, board: mmap.mmap, pipe: Connection, inherited: list[Any], parent: int
) -> None:
    """Answer messages until the pipe closes."""
    with contextlib.suppress(OSError):
        os.setsid()  # the kernel shares the processor by session
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(parent)
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    _flower.identify()
    contexts: dict[int, Any] = {}
    content: tuple[int, bytes] = (0, b"")
    with contextlib.suppress(EOFError, OSError):
        while True:
            generation, length, metadata = pipe.recv()
            if generation != content[0]:
                content = (generation, bytes(board[:length]))
            message = _flower.from_bytes(content[1])
            message.metadata.__dict__.update(metadata)
            node = message.metadata.dst_node_id
            place = contexts.setdefault(node, _flower.client_context(settings, node))
            pipe.send_bytes(_flower.to_bytes(_flower.answer(app, message, place)))
    os._exit(0)


def _die_with(parent: int) -> None:
    """Ask Linux to end this process with its parent, even when that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


class PoolGrid(LocalGrid):
    """A Flower Grid over forked workers; replies come in the order in which they finish."""

    def __init__(self, app: ClientApp, settings: Settings) -> None:
        super().__init__(settings)
        torch.set_num_threads(1)  # before any fork: threads do not survive one
        self._app = app
        self._workers: list[_Worker] = []
        self._board: mmap.mmap | None = None
        self._posted: tuple[RecordDict, int] | None = None
        self._generation = 0

    def _start(self, size: int) -> mmap.mmap:
        """Fork at the first message: the workers inherit what this process has read by then."""
        if self._board is None or len(self._board) < size:
            for worker in self._workers:
                worker.stop()
            self._board = mmap.mmap(-1, max(1 << 16, 2 * size))
            self._workers = []
            self._posted = None
            for _ in range(max(1, min(self.settings.workers, self.settings.clients))):
                self._workers.append(_Worker(self._app, self.settings, self._board, self._workers))
        return self._board

    def _post(self, message: Message) -> tuple[int, int, Any]:
        """Return what goes through the pipe; content that many messages share is written to the board once."""
        if self._posted is None or self._posted[0] is not message.content:
            data = _flower.to_bytes(message)
            board = self._start(len(data))
            board[: len(data)] = data
            self._generation += 1
            self._posted = (message.content, len(data))
        return self._generation, self._posted[1], dict(message.metadata.__dict__)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield replies as they finish.

        `timeout` is what one message may take, seconds: nodes of one machine queue for its processors, and waiting for
        them is nobody's fault. A worker that dies is noticed at once.
        """
        queued = list(messages)
        for message in queued:
            self._number(message)
        while queued:  # messages that share one content travel together
            together = [message for message in queued if message.content is queued[0].content]
            queued = [message for message in queued if message.content is not together[0].content]
            try:
                yield from self._wave(together, timeout)
            finally:  # whoever stops listening halfway must not get old answers to the next question
                if any(worker.pending for worker in self._workers):
                    self.close()

    def _wave(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        self._post(messages[0])
        lanes: list[deque[Message]] = [deque() for _ in self._workers]
        for message in messages:
            lanes[message.metadata.dst_node_id % len(lanes)].append(message)
        while any(lanes) or any(worker.pending for worker in self._workers):
            for lane, worker in zip(lanes, self._workers, strict=True):
                while lane and len(worker.pending) < _DEPTH:
                    message = lane.popleft()
                    if not worker.pending:
                        worker.since = time.monotonic()
                    worker.pending.append(message)
                    with contextlib.suppress(OSError):  # a dead worker is noticed when its answer is awaited
                        worker.pipe.send(self._post(message))
            busy = [worker for worker in self._workers if worker.pending]
            ready = connection.wait([worker.pipe for worker in busy], _left(busy, timeout))
            for place, worker in enumerate(self._workers):
                if worker.pipe in ready:
                    yield self._receive(place, lanes[place])
                elif worker.pending and timeout is not None and time.monotonic() - worker.since > timeout:
                    yield _flower.late(self._replaced(place, lanes[place], at_once=True), timeout)

    def _receive(self, place: int, lane: deque[Message]) -> Message:
        worker = self._workers[place]
        try:
            data = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            worker.process.join(5)
            code = worker.process.exitcode
            return _flower.failure(self._replaced(place, lane), f"the worker process ended (exit code {code})")
        worker.pending.popleft()
        worker.since = time.monotonic()
        return _flower.from_bytes(data)

    def _replaced(self, place: int, lane: deque[Message], at_once: bool = False) -> Message:
        """Put a fresh worker in a place; return the message that is lost, the others wait in their lane again."""
        worker = self._workers[place]
        lost = worker.pending.popleft()
        lane.extendleft(reversed(worker.pending))
        worker.stop(at_once)
        others = [other for other in self._workers if other is not worker]
        assert self._board is not None  # a worker exists, so the board does
        self._workers[place] = _Worker(self._app, self.settings, self._board, others)
        return lost

    def close(self) -> None:
        """Stop all workers; no process is left."""
        for worker in self._workers:
            worker.stop()
        self._workers = []
        if self._board is not None:
            self._board.close()
            self._board = self._posted = None
