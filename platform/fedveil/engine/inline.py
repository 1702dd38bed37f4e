"""The inline engine: calls the ClientApp in order in this process. For tests, debugging, any system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from flwr.app import Message

from fedveil.engine import _flower
from fedveil.engine._flower import ClientApp, LocalGrid, Settings


class InlineGrid(LocalGrid):
    """A Flower Grid in one process and one thread; replies come one by one as they are asked for."""

    def __init__(self, app: ClientApp, settings: Settings) -> None:
        super().__init__(settings)
        self._app = app
        self._contexts = {node: _flower.client_context(settings, node) for node in self.get_node_ids()}
        torch.set_num_threads(1)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the replies in the order of the messages; `timeout` has no meaning here."""
        for message in messages:
            self._number(message)
            if self.settings.wire:
                received = _flower.from_bytes(_flower.to_bytes(message))
            else:
                received = _flower.own_copy(message)
            reply = _flower.answer(self._app, received, self._contexts[message.metadata.dst_node_id])
            yield _flower.from_bytes(_flower.to_bytes(reply)) if self.settings.wire else reply

    def close(self) -> None:
        """Nothing to stop."""
