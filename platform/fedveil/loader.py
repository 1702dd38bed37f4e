"""Batches made ahead of their use, in a thread and a CUDA stream of their own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import torch

Batch = TypeVar("Batch", bound=tuple[torch.Tensor, ...])

_DEPTH = 3  # batches that wait: enough to ride out one slow read, few enough to leave a GPU's memory to the step
_PATIENCE = 0.1  # seconds between looks at whether anybody still listens


def ahead(batches: Iterator[Batch], stream: torch.cuda.Stream | None, depth: int = _DEPTH) -> Generator[Batch]:
    """Yield the batches in order while the next ones are made; with an error at its place, and no thread left behind.

    Args:
        batches: an iterator that nobody else uses; it runs in the thread.
        stream: where its kernels go; None for batches of the host.
        depth: batches that may wait.

    >>> [int(batch[0]) for batch in ahead(iter([(torch.tensor(1),), (torch.tensor(2),)]), None)]
    [1, 2]
    """
    waiting: queue.Queue[tuple[Batch | None, Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def hand_over(batch: Batch | None, event: Any, error: BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((batch, event, error), timeout=_PATIENCE)
                return

    def work() -> None:
        try:
            with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
                for batch in batches:
                    hand_over(batch, None if stream is None else stream.record_event(), None)
                    if stopped.is_set():
                        return
            hand_over(None, None, None)
        except BaseException as error:  # told where the batch would have been
            hand_over(None, None, error)

    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))  # what batches read may still be on its way
    thread = threading.Thread(target=work, name="batches ahead", daemon=True)
    thread.start()
    try:
        while True:
            batch, event, error = waiting.get()
            if error is not None:
                raise error
            if batch is None:
                return
            if stream is not None:
                now = torch.cuda.current_stream(stream.device)
                now.wait_event(event)
                for tensor in batch:
                    if tensor.is_cuda:
                        tensor.record_stream(now)  # its memory is the side stream's: not to be reused before the step
            yield batch
    finally:
        stopped.set()
        thread.join()
