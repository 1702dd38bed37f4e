"""The inline engine: calls the ClientApp in order in this process. For tests, debugging, any system."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from flwr.app import Context, Message

from fedveil.engine import _flower, _parcel
from fedveil.engine._flower import ClientApp, LocalGrid, Settings


class InlineGrid(LocalGrid):
    """A Flower Grid in one process and one thread; replies come one by one as they are asked for."""

    def __init__(self, app: ClientApp, settings: Settings) -> None:
        super().__init__(settings)
        self._app = app
        self._contexts: dict[int, Context] = {}  # of nodes that were asked
        torch.set_num_threads(1)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the replies in the order of the messages.

        Nothing interrupts a Python call in this process: a client that hangs hangs the run. One that answers after more
        than `timeout` seconds is late, as on every engine, and its answer is dropped.
        """
        for message in messages:
            self._number(message)
            if self.settings.wire:
                received = _flower.from_bytes(_flower.to_bytes(message))
            else:
                received = _flower.rebuilt(message.metadata, _parcel.own(message.content))
            begun = time.monotonic()
            reply = _flower.answer(self._app, received, self._context(message.metadata.dst_node_id))
            if timeout is not None and time.monotonic() - begun > timeout:
                reply = _flower.late(message, timeout)
            yield _flower.from_bytes(_flower.to_bytes(reply)) if self.settings.wire else reply

    def _context(self, node: int) -> Context:
        if node not in self._contexts:
            self._contexts[node] = _flower.client_context(self.settings, node)
        return self._contexts[node]

    def close(self) -> None:
        """Nothing to stop."""
