"""Several GPUs: one fresh process for each, which keeps the model there; a client goes to whichever is free.

The processes are started and not forked, because CUDA does not survive a fork. A round's common content is serialised
once and sent to each process once. One that dies, or works on one message for longer than the deadline and is killed,
fails the client it was working on and is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

import torch
from flwr.app import Message

from fedveil.engine import _flower
from fedveil.engine._flower import LocalGrid, Settings


class GpuGrid(LocalGrid):
    """A Flower Grid over one process per device; replies come in the order in which they finish.

    Args:
        app: `package.module:attribute` of the ClientApp, which each process loads.
        settings: of the run.
        devices: the word that names each process's device, for its nodes.
    """

    def __init__(self, app: str, settings: Settings, devices: Sequence[str]) -> None:
        super().__init__(settings)
        torch.set_num_threads(1)
        self._app, self._devices = app, list(devices)
        self._workers: list[_Worker] = []
        self._generation = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield replies as they finish; `timeout` is what one message may take, seconds."""
        waiting = deque(messages)
        for message in waiting:
            self._number(message)
        if not self._workers:
            self._workers = [_Worker(self._app, self.settings, word) for word in self._devices]
        posted: tuple[Any, bytes] | None = None
        try:
            while waiting or any(worker.message for worker in self._workers):
                for worker in self._workers:
                    if waiting and worker.message is None:
                        message = waiting.popleft()
                        if posted is None or posted[0] is not message.content:
                            posted = (message.content, _flower.to_bytes(message))
                            self._generation += 1
                        worker.give(message, self._generation, posted[1])
                busy = [worker for worker in self._workers if worker.message is not None]
                ready = connection.wait([worker.pipe for worker in busy], _left(busy, timeout))
                for place, worker in enumerate(self._workers):
                    if worker.pipe in ready:
                        yield self._reply(place)
                    elif worker.message is not None and _left([worker], timeout) == 0.0:
                        yield _flower.late(self._replaced(place), timeout or 0.0)
        finally:  # whoever stops listening halfway must not get old answers to the next question
            if any(worker.message is not None for worker in self._workers):
                self.close()

    def _reply(self, place: int) -> Message:
        worker = self._workers[place]
        try:
            data = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            worker.process.join(5)
            code = worker.process.exitcode
            return _flower.failure(self._replaced(place), f"the process of {worker.device} ended (exit code {code})")
        worker.message = None
        return _flower.from_bytes(data)

    def _replaced(self, place: int) -> Message:
        """Put a fresh process in a place and return the message that is lost."""
        worker = self._workers[place]
        assert worker.message is not None  # only a worker with a message is late or awaited
        worker.stop()
        self._workers[place] = _Worker(self._app, self.settings, worker.device)
        return worker.message

    def close(self) -> None:
        """Stop all processes."""
        for worker in self._workers:
            worker.stop()
        self._workers = []


class _Worker:
    """One process, and the message it works on."""

    def __init__(self, app: str, settings: Settings, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.device = device
        self.pipe, theirs = context.Pipe()
        own = dataclasses.replace(settings, node_config={**settings.node_config, "device": device})
        self.process = context.Process(target=_serve, args=(app, own, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.message: Message | None = None
        self.since = 0.0
        self._generation = 0

    def give(self, message: Message, generation: int, content: bytes) -> None:
        """Send a message, and its content unless this process has it."""
        self.message, self.since = message, time.monotonic()
        with contextlib.suppress(OSError):  # a dead process is noticed when its answer is awaited
            self.pipe.send((generation != self._generation, dict(message.metadata.__dict__)))
            if generation != self._generation:
                self.pipe.send_bytes(content)
                self._generation = generation

    def stop(self) -> None:
        """End the process at once: what it works on is lost either way."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        self.process.kill()
        self.process.join(5)


def _left(busy: Sequence[_Worker], timeout: float | None) -> float | None:
    """Return the seconds until the first of these is late; None: never."""
    return None if timeout is None else max(0.0, min(worker.since for worker in busy) + timeout - time.monotonic())


def _serve(app: str, settings: Settings, pipe: Connection) -> None:
    """Answer messages until the pipe closes."""
    from fedveil import engine

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _flower.identify()
    loaded = engine.load(app)
    contexts: dict[int, Any] = {}
    content = b""
    with contextlib.suppress(EOFError, OSError):
        while True:
            fresh, metadata = pipe.recv()
            if fresh:
                content = pipe.recv_bytes()
            message = _flower.from_bytes(content)
            message.metadata.__dict__.update(metadata)
            node = message.metadata.dst_node_id
            place = contexts.setdefault(node, _flower.client_context(settings, node))
            pipe.send_bytes(_flower.to_bytes(_flower.answer(loaded, message, place)))
