"""Large arrays in blocks that a core's cache holds, on all cores: what one core would find, bit for bit.

Where blocks lie is a function of an array's size, never of the machine; a block's work reads and writes that block
alone. So a result may depend on the blocks, as a sum of sums does, but not on how many cores found it.

Threads live for one call: there is none when an engine forks its workers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Scratch = NDArray[np.float64]

BLOCK = 1 << 15
"""Numbers in a block: 256 KiB of float64, so that a core's cache holds a few of them."""
_MANY = 1 << 18  # numbers that are worth a thread
_MOST = 8  # cores: beyond them memory is what is waited for


def spans(size: int, block: int = BLOCK) -> list[slice]:
    """Return the blocks of a vector (size,), in order; the last one may be shorter.

    >>> spans(5, block=2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + block, size)) for start in range(0, size, block)]


def each(work: Callable[[Item, Scratch], None], items: Sequence[Item], numbers: int) -> None:
    """Do each item's work once, on as many cores as `numbers`, how many numbers all items have, are worth.

    Args:
        work: given an item and an uninitialised float64 array as long as a block, which is this thread's alone. It must
            write nothing that another item's work reads or writes. NumPy's loops let the other threads run.
        items: blocks.
        numbers: in all items together.

    Raises:
        Exception: the first one that a work raised, or Ctrl-C, after all threads have ended; what is left is not begun.
    """
    threads = min(_cores(), _MOST, len(items), numbers // _MANY)
    left = iter(items)  # one for all: taking the next item is one step of the interpreter
    errors: list[BaseException] = []

    def share() -> None:
        try:
            scratch = np.empty(min(BLOCK, max(numbers, 1)), np.float64)
            for item in left:
                if errors:
                    break
                work(item, scratch)
        except BaseException as error:
            errors.append(error)

    others: list[threading.Thread] = []
    try:
        for _ in range(threads - 1):
            thread = threading.Thread(target=share, name="blocks")
            try:
                thread.start()
            except RuntimeError:  # a machine that gives no more threads: those that there are do all of it
                break
            others.append(thread)
        share()
        _join(others)
    except BaseException as stop:  # Ctrl-C reaches this thread wherever it is; the others would go on with the arrays
        errors.insert(0, stop)
        _join(others)
    if errors:
        raise errors[0]


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
