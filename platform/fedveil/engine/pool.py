"""The pool engine: persistent worker processes, which share memory and take the next client as they become free.

What a round's messages have in common is put into shared memory once. An answer's arrays are written by the worker
where the parent reads them. Messages are handed out in their order, one a worker, a few ahead of the oldest that
is unanswered: so answers that are summed in that order wait for little, and memory does not grow with the cohort. Among
the next few, a worker takes one that it has had before, whose data it has open, or else one that no other has had.

A worker that ends, or works on one message for longer than the deadline and is killed, fails the client it was working
on and is replaced; the others' messages are worked on all the same. One that somebody else has killed (a system without
memory, an operator) is nobody's fault: its client is asked once more, and answers the same.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import connection

import torch
from flwr.app import Message, RecordDict

from fedveil.engine import _flower, _parcel
from fedveil.engine._flower import ClientApp, LocalGrid, Settings
from fedveil.engine._shared import Memory, Slots, Writer
from fedveil.engine._worker import Posted, Start, Worker

_AHEAD = 2  # messages per worker that may be out before the oldest is answered
_SPARE = 2  # answers that may be looked at in place, the one that is summed and one that waits for its turn; and one
# more for every fourth worker


class PoolGrid(LocalGrid):
    """A Flower Grid over worker processes; replies come in the order in which they finish.

    An answer's arrays are views of shared memory for as long as somebody looks at them; where nobody lets go of them,
    later ones are copies.
    """

    def __init__(self, app: ClientApp, settings: Settings, start: Start = "fork") -> None:
        super().__init__(settings)
        torch.set_num_threads(1)  # before any fork: threads do not survive one
        self._app, self._begin = app, start
        self._count = max(1, min(settings.workers, settings.clients))
        self._workers: list[Worker] = []
        self._board: Memory | None = None
        self._slots: Slots | None = None
        self._posted: tuple[RecordDict, Posted] | None = None
        self._contents = 0
        self._homes: dict[int, int] = {}  # node -> the place of the worker that had it last

    def _post(self, content: RecordDict) -> Posted:
        """Put a content into shared memory, unless it is there; workers are started with the first."""
        if self._board is None or self._slots is None:
            self._board, self._slots = Memory("content"), Slots(self._count + _SPARE + self._count // 4)
        if self._posted is None or self._posted[0] is not content:
            size = _parcel.size_of(content)
            writer = Writer(memoryview(self._board.grown(size)))
            self._contents += 1
            self._posted = (content, Posted(self._contents, size, _parcel.apart(content, writer.put)))
            self._slots.widen(max(size, 1))
        while len(self._workers) < self._count:  # they inherit what this process has read by now
            self._workers.append(self._worker())
        return self._posted[1]

    def _worker(self) -> Worker:
        assert self._board is not None  # both are there before the first worker
        assert self._slots is not None
        return Worker(self._app, self.settings, self._begin, (self._board, self._slots.memory), self._workers)

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
                if any(worker.message is not None for worker in self._workers):
                    self.close()

    def _wave(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        posted = self._post(messages[0].content)
        queue = deque(enumerate(messages))
        out: dict[str, int] = {}  # message id -> its place, of those that workers have
        again: set[str] = set()  # ids of those whose worker was killed once
        self._hand_out(queue, out, posted)
        while out:
            busy = [worker for worker in self._workers if worker.message is not None]
            ready = connection.wait([worker.pipe for worker in busy], _left(busy, timeout))
            for place, worker in enumerate(self._workers):
                if worker.message is None:
                    continue
                if worker.pipe in ready:
                    lost = worker.message
                    reply = self._received(place, lost.metadata.message_id not in again)
                    if reply is None:
                        again.add(lost.metadata.message_id)
                        queue.appendleft((out.pop(lost.metadata.message_id), lost))
                        self._hand_out(queue, out, posted)
                        continue
                elif timeout is not None and time.monotonic() - worker.since > timeout:
                    reply = _flower.late(self._replaced(place, at_once=True), timeout)
                else:
                    continue
                del out[reply.metadata.reply_to_message_id]
                self._hand_out(queue, out, posted)  # before the answer is dealt with
                yield reply
                del reply  # nobody looks at it here any more

    def _hand_out(self, queue: deque[tuple[int, Message]], out: dict[str, int], posted: Posted) -> None:
        """Give idle workers their next message, of those not too far ahead of the oldest unanswered one."""
        for place, worker in enumerate(self._workers):
            if worker.message is not None or not queue:
                continue
            oldest = min([*out.values(), queue[0][0]])
            last = oldest + _AHEAD * len(self._workers)
            near = [entry for entry in itertools.islice(queue, len(self._workers)) if entry[0] < last]
            if not near:
                return
            homes = [self._homes.get(message.metadata.dst_node_id) for _, message in near]
            which = next((homes.index(home) for home in (place, None) if home in homes), 0)
            number, message = entry = near[which]
            queue.remove(entry)
            out[message.metadata.message_id] = number
            self._homes[message.metadata.dst_node_id] = place
            assert self._slots is not None
            worker.ask(message, posted, (self._slots.free.pop(), self._slots.width))

    def _received(self, place: int, once_more: bool) -> Message | None:
        """Return a worker's answer, or the failure that it has ended; None if it was killed and may be tried again."""
        worker, slots = self._workers[place], self._slots
        assert slots is not None
        try:
            metadata, error, content = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            code = worker.process.exitcode
            if once_more and code is not None and code < 0:
                self._replaced(place)
                return None
            return _flower.failure(self._replaced(place), f"the worker process ended (exit code {code})")
        worker.message = None
        begin, width = worker.slot
        if error is not None:
            slots.release(begin, width)
            return _flower.rebuilt(metadata, error=error)
        seen = slots.view(begin)
        reply = _parcel.together(content, seen)
        if len(slots.free) < sum(one.message is None for one in self._workers):  # each needs one for its next answer
            reply = _parcel.copied(reply)
        return _flower.rebuilt(metadata, reply)

    def _replaced(self, place: int, at_once: bool = False) -> Message:
        """Put a fresh worker in a place; return the message that is lost."""
        worker = self._workers.pop(place)
        lost = worker.message
        assert lost is not None  # idle workers are not waited for
        worker.stop(at_once)
        assert self._slots is not None
        self._slots.release(*worker.slot)
        self._workers.insert(place, self._worker())
        return lost

    def close(self) -> None:
        """Stop all workers; no process is left, and no shared memory when nobody looks at answers any more."""
        for worker in self._workers:
            worker.stop()
        self._workers = []
        self._homes.clear()
        self._posted = None
        if self._board is not None and self._slots is not None:
            self._board.close()
            self._slots.memory.close()
            self._board = self._slots = None


def _left(busy: list[Worker], timeout: float | None) -> float | None:
    """Return the seconds until the first of these workers is late; None: never."""
    return None if timeout is None else max(0.0, min(worker.since for worker in busy) + timeout - time.monotonic())
