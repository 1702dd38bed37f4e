"""A message in two parts: arrays, which cross in shared memory, and the rest, which is small and pickled.

Only processes of one simulation exchange parcels, through pipes that nobody else has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedveil.engine.arrays import LocalArray, filled
from fedveil.federation import packed

_ALIGNED = 64  # bytes; what vector instructions like best

Memory = memoryview | Any
"""Something that NumPy can look at as bytes."""


class Place(NamedTuple):
    """Where an array's values are in shared memory; a tuple, which is pickled in a third of a data class's time."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    def view(self, memory: Memory) -> NDArray[Any]:
        """Return the values, as they stand in the memory."""
        return np.frombuffer(memory, self.dtype, math.prod(self.shape), self.offset).reshape(self.shape)


Packed = list[tuple[str, type, Any]]
"""(name, kind of record, its items); of an array a `Place`, or its four parts where it is bytes already."""


def aligned(size: int) -> int:
    """Return the next multiple of the alignment.

    >>> aligned(1), aligned(64)
    (64, 64)
    """
    return -(-size // _ALIGNED) * _ALIGNED


def size_of(content: RecordDict) -> int:
    """Return the bytes of shared memory that a content's arrays take."""
    return sum(aligned(values.nbytes) for values in _local(content))


def _local(content: RecordDict) -> list[NDArray[Any]]:
    records = (record for record in content.values() if isinstance(record, ArrayRecord))
    return [array.values for record in records for array in record.values() if isinstance(array, packed.Held)]


def apart(content: RecordDict, put: Callable[[NDArray[Any]], Place | None]) -> Packed:
    """Return a content with its values where `put` has placed them; those for which it has no place are pickled."""
    found: Packed = []
    for name, record in content.items():
        if not isinstance(record, ArrayRecord):
            found.append((name, type(record), dict(record)))
            continue
        items: list[tuple[str, Any]] = []
        for key, array in record.items():
            if isinstance(array, packed.Held):
                place = put(array.values)
                items.append((key, array.values.copy() if place is None else place))
            else:
                items.append((key, (array.dtype, tuple(array.shape), array.stype, array.data)))
        found.append((name, ArrayRecord, items))
    return found


def together(given: Packed, memory: Memory) -> RecordDict:
    """Return the content that `apart` took apart; its values are views of the memory, read-only."""
    content = RecordDict()
    for name, kind, items in given:
        content[name] = (
            filled({key: _array(item, memory) for key, item in items}) if kind is ArrayRecord else kind(items)
        )
    return content


def _array(item: Any, memory: Memory) -> Array:
    if isinstance(item, Place):
        return LocalArray(item.view(memory))
    return LocalArray(item) if isinstance(item, np.ndarray) else Array(*item)


def own(content: RecordDict) -> RecordDict:
    """Return a content of the receiver's own: nobody else sees what it changes. Only values and bytes are shared."""
    copy = RecordDict()
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            copy[name] = filled({key: _same(array) for key, array in record.items()})
        else:
            kind: Any = MetricRecord if isinstance(record, MetricRecord) else ConfigRecord
            copy[name] = kind({key: [*value] if isinstance(value, list) else value for key, value in record.items()})
    return copy


def _same(array: Array) -> Array:
    if isinstance(array, packed.Held):
        return LocalArray(array.values)
    return Array(array.dtype, tuple(array.shape), array.stype, bytes(array.data))


def copied(content: RecordDict) -> RecordDict:
    """Return a content whose values are in memory of their own."""
    copy = RecordDict()
    for name, record in content.items():
        copy[name] = record if not isinstance(record, ArrayRecord) else filled(
            {key: LocalArray(array.values.copy()) if isinstance(array, packed.Held) else array
             for key, array in record.items()}
        )  # fmt: skip
    return copy
