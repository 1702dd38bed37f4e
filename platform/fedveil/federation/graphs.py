"""A whole local step as one CUDA graph: recorded once for a network, then replayed for every batch of that shape.

A step of a deep network is thousands of short kernels, and starting them from Python takes longer than running them.
A graph starts them together. It is a list of kernels with the addresses they work on, so whatever a step reads or
writes has a place of its own here: the batch, the class centres, the rates, the loss; the network's parameters have
theirs. The kernels are those of the step itself, in its order, so the bits are the same.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. What it asks for: nothing inside waits for the
device; kernels are compiled and workspaces allocated by steps taken before, on the stream that records.
"""

from __future__ import annotations

import collections
import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

USED = True
"""False: every step is launched from Python, kernel by kernel. The results have the same bits."""

WARM = 3
"""Steps taken before one is recorded; they are steps like any other."""

_KEPT = 8  # graphs of a process: clients that share a network but not a number of classes have one each
_AHEAD = 2  # steps asked of the device and not yet done: more would only hold the memory of their batches

Result = TypeVar("Result")
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Features and labels -> the loss; tensors are changed in place."""


class Recording:
    """One network's step for one set of settings and one number of classes.

    Attributes:
        centres: where the class centres are while the steps run.
        rate: minus the step size of the network, a scalar on the device.
        centre_rate: minus the step size of the centres, likewise.
    """

    def __init__(self, network: nn.Module, key: Hashable, centres: torch.Tensor) -> None:
        self.network = weakref.ref(network)
        self.key = key
        self.centres = torch.empty_like(centres)
        self.rate, self.centre_rate = (torch.zeros((), device=centres.device) for _ in range(2))
        self.inputs: tuple[torch.Tensor, torch.Tensor] | None = None
        self.graph: Any = None  # torch.cuda.CUDAGraph has no types
        self._loss = torch.zeros((), device=centres.device)
        self._held = [*network.parameters()]  # while they live nothing else gets their addresses
        self._warm = 0
        self._refused = False
        self._running: collections.deque[Any] = collections.deque()

    def begin(self, centres: torch.Tensor, lr: float, centre_lr: float) -> torch.Tensor:
        """Take the caller's centres and rates; return the centres to train."""
        self.centres.copy_(centres.detach())
        self.rate.fill_(-lr)
        self.centre_rate.fill_(-centre_lr)
        return self.centres

    def take(self, step: Step, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take one step, by replaying it where it is recorded; return its loss."""
        if self._refused or not self._fits(features, labels):
            return step(features, labels)
        assert self.inputs is not None
        for place, value in zip(self.inputs, (features, labels), strict=True):
            place.copy_(value, non_blocking=True)
        if self.graph is None and self._warm < WARM:
            aside(self.centres.device, lambda: self._take(step))
            self._warm += 1
        elif self.graph is None and not self._recorded(step):
            return step(features, labels)
        else:
            self.graph.replay()
        self._wait()
        return self._loss.clone()

    def _fits(self, features: torch.Tensor, labels: torch.Tensor) -> bool:
        """Return whether a batch has the recorded shape; before anything is recorded, the newest shape is it."""
        if self.inputs is not None:
            if all(map(_alike, self.inputs, (features, labels))):
                return True
            if self.graph is not None:
                return False
        there = next((one.inputs for one in _recordings if _same_inputs(one, features, labels)), None)
        try:
            self.inputs = there or (torch.empty_like(features), torch.empty_like(labels))  # read within a step only
        except torch.OutOfMemoryError:  # no room for a second copy of the batch: a launched step needs none
            self._refused = True
            return False
        self._warm = 0
        return True

    def _take(self, step: Step) -> None:
        assert self.inputs is not None
        self._loss.copy_(step(*self.inputs))

    def _recorded(self, step: Step) -> bool:
        """Record the step, which computes nothing; return False where it cannot be recorded."""
        pool = next((one.graph.pool() for one in _recordings if one.graph is not None and _near(one, self)), None)
        try:
            self.graph = record(self.centres.device, lambda: self._take(step), pool)
        except RuntimeError as error:  # out of memory among them: the step itself has had room
            reason = str(error).splitlines()[0]
            self._refused, self.inputs = True, None
            warnings.warn(f"Steps are launched one by one: no CUDA graph of them ({reason}).", stacklevel=2)
            return False
        return True

    def _wait(self) -> None:
        """Wait until the step before the last is done, or batches would be made faster than they are used up."""
        if not self.centres.is_cuda:
            return
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.centres.device))
        self._running.append(event)
        if len(self._running) > _AHEAD:
            self._running.popleft().synchronize()


_recordings: list[Recording] = []


def recording(
    network: nn.Module, centres: torch.Tensor, names: Sequence[str] | None, settings: Hashable
) -> Recording | None:
    """Return the recording of a network's steps, a new one where there is none; None where steps are not recorded.

    Args:
        network: on its device; its parameters keep their memory.
        centres: (K, D) of the caller.
        names: of the tensors that are trained; None: all.
        settings: whatever else a step depends on and a graph holds as constants.
    """
    if not USED or not _capable(network, centres):
        return None
    places = tuple(tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers()))
    trained = None if names is None else tuple(names)
    key = (places, network.training, trained, settings, tuple(centres.shape), centres.dtype, centres.device)
    _recordings[:] = [one for one in _recordings if one.network() is not None]
    found = next((one for one in _recordings if one.network() is network and one.key == key), None)
    if found is None:
        try:
            found = with_room(lambda: Recording(network, key, centres))
        except torch.OutOfMemoryError:  # nor for one of the centres
            return None
    else:
        _recordings.remove(found)
    _recordings.append(found)  # the newest last
    del _recordings[:-_KEPT]
    return found


def forget() -> None:
    """Drop every graph, and with them the memory that they hold."""
    for one in _recordings:
        one.graph = None
    _recordings.clear()


def with_room(work: Callable[[], Result]) -> Result:
    """Return what `work` returns; where there was no room beside the graphs, after dropping them.

    Args:
        work: changes nothing before it has all memory that it needs.
    """
    try:
        return work()
    except torch.OutOfMemoryError:
        if all(one.graph is None for one in _recordings) or _capturing():
            raise
    forget()  # not above: the error holds what there was no room for
    return work()


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def record(device: torch.device, work: Callable[[], None], pool: Any = None) -> Any:
    """Return a graph of what `work` would do, without doing it.

    Args:
        device: of CUDA.
        work: warmed up by `aside`.
        pool: memory of another graph of this device. Sharing is right because nothing in it outlives a step.
    """
    graph = torch.cuda.CUDAGraph()
    # "thread_local": the thread that makes the next batches allocates and copies meanwhile, on another stream.
    with (
        torch.cuda.device(device),
        torch.cuda.stream(torch.cuda.current_stream(device)),  # the one to come back to, should recording fail
        torch.cuda.graph(graph, pool=pool, stream=_stream(device), capture_error_mode="thread_local"),
    ):
        work()
    return graph


def aside(device: torch.device, work: Callable[[], None]) -> None:
    """Do `work` on the stream that records: a library's workspaces belong to the stream that asked for them first."""
    stream, now = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(now)
    with torch.cuda.stream(stream):
        work()
    now.wait_stream(stream)


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _streams[device]


def _capable(network: nn.Module, centres: torch.Tensor) -> bool:
    """Return whether steps may be recorded: a network with a loss of its own may do in it what no graph holds."""
    return centres.is_cuda and not hasattr(network, "with_penalty")


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride()


def _near(one: Recording, other: Recording) -> bool:
    return one.centres.device == other.centres.device


def _same_inputs(one: Recording, features: torch.Tensor, labels: torch.Tensor) -> bool:
    if one.inputs is None or one.inputs[0].device != features.device:
        return False
    return all(map(_alike, one.inputs, (features, labels)))
