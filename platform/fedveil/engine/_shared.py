"""Memory that the pool's processes share: it has no name, so nothing of it can outlive the last of them."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil.engine import _parcel
from fedveil.engine._parcel import Place


class Memory:
    """An anonymous file in memory that its processes map; it grows, and who has mapped less maps it again.

    Attributes:
        handle: the file; a worker inherits it or is sent it.
    """

    def __init__(self, name: str = "", handle: int | None = None) -> None:
        self.handle = os.memfd_create(f"fedveil-{name}") if handle is None else handle
        self._size = 0
        self._map: mmap.mmap | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (reduction.DupFd(self.handle),)  # while a process is spawned

    def grown(self, size: int) -> mmap.mmap:
        """Return the memory, made at least `size` bytes large: for the process that it belongs to."""
        if self._map is None or self._size < size:
            self._size = max(self._size, size, mmap.PAGESIZE)
            os.ftruncate(self.handle, self._size)
            self._map = mmap.mmap(self.handle, self._size)
        return self._map

    def seen(self, size: int, write: bool = False) -> mmap.mmap:
        """Return the memory, of which there are at least `size` bytes: for the other processes."""
        if self._map is None or self._size < size:
            self._size = os.fstat(self.handle).st_size
            kind = mmap.PROT_READ | mmap.PROT_WRITE if write else mmap.PROT_READ
            self._map = mmap.mmap(self.handle, self._size, prot=kind)
        return self._map

    def close(self) -> None:
        """Give the file back; who still looks at values in it may go on."""
        self._map = None
        os.close(self.handle)


def _arrived(handle: Any) -> Memory:
    return Memory(handle=handle.detach())


class Writer:
    """Puts arrays one behind the other into a piece of memory; places are counted from its beginning."""

    def __init__(self, memory: memoryview) -> None:
        self._memory, self._next = memory, 0
        self._given: dict[int, Place] = {}

    def put(self, values: NDArray[Any]) -> Place | None:
        """Return where values are now, or None where there is no room; those that `room` gave are there already."""
        given = self._given.get(values.__array_interface__["data"][0])
        if given is not None and given.shape == values.shape and given.dtype == str(values.dtype):
            return given
        place = self._place(str(values.dtype), values.shape, values.nbytes)
        if place is not None:
            np.copyto(place.view(self._memory), values, casting="no")
        return place

    def room(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an uninitialised float32 array in the memory, or elsewhere when it is full."""
        place = self._place("float32", shape, 4 * math.prod(shape))
        if place is None:
            return np.empty(shape, np.float32)
        values = place.view(self._memory)
        self._given[values.__array_interface__["data"][0]] = place
        return values

    def _place(self, dtype: str, shape: tuple[int, ...], size: int) -> Place | None:
        begin, end = self._next, self._next + _parcel.aligned(size)
        if end > len(self._memory) or size == 0:
            return None
        self._next = end
        return Place(dtype, shape, begin)


class Slots:
    """Equal pieces of one memory, each for one answer; a piece is free again when nobody looks at it any more.

    Attributes:
        width: bytes of one piece.
        free: where the pieces begin that nobody uses; the last is used first, so that few pages are touched.
    """

    def __init__(self, count: int) -> None:
        self.memory = Memory("answers")
        self.width, self._count, self._end = 0, count, 0
        self.free: list[int] = []

    def widen(self, width: int) -> None:
        """Have pieces of at least `width` bytes; answers in narrower ones stay where they are."""
        if width > self.width:
            self.width = width
            begin, self._end = self._end, self._end + width * self._count
            self.memory.grown(self._end)
            self.free = [*range(begin, self._end, width)][::-1]

    def view(self, start: int) -> NDArray[np.uint8]:
        """Return a piece as bytes; it is free when this, and everything made of it, is gone."""
        whole = np.frombuffer(self.memory.grown(0), np.uint8, self.width, start)
        weakref.finalize(whole, self.release, start, self.width)
        return whole

    def release(self, start: int, width: int) -> None:
        """Have a piece back that was `width` bytes wide."""
        if width == self.width:
            self.free.append(start)
