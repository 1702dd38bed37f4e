"""Arrays in Flower's records: handed over within this machine as they are, written as bytes for a network.

Both apps build their records here. A `LocalArray` is an Array like any other to whoever reads its bytes, which are then
made; the apps, which know it, read its values.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedveil.federation import packed

_NUMPY = "numpy.ndarray"  # flwr.common.constant.SType.NUMPY

Room = Callable[[tuple[int, ...]], NDArray[np.float32]]
"""Shape -> an uninitialised float32 array of it."""


@functools.lru_cache(maxsize=16)
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


class LocalArray(Array, packed.Held):
    """An array that stays values until somebody asks for its bytes.

    Who replaces its bytes makes it an array of those bytes and changes nothing for anybody else.
    """

    def __init__(self, values: NDArray[Any]) -> None:
        seen = values
        if seen.flags.writeable:
            seen = values.view()
            seen.setflags(write=False)
        self.__dict__.update(dtype=_name(seen.dtype), shape=seen.shape, stype=_NUMPY, values=seen)

    @property
    def data(self) -> bytes:
        """The .npy file of the values, made anew at every call."""
        stream = io.BytesIO()
        np.lib.format.write_array(stream, self.values, version=(1, 0), allow_pickle=False)
        return stream.getvalue()

    @data.setter
    def data(self, data: bytes) -> None:
        self.__class__ = Array  # type: ignore[assignment]
        self.__dict__.pop("values", None)
        self.__dict__["data"] = data


def record(tensors: Mapping[str, NDArray[Any]], local: bool) -> ArrayRecord:
    """Return named arrays as a record, as values where it stays on this machine.

    The values of a `local` record are not copied: they must not change while it is in use.
    """
    return filled({name: LocalArray(values) if local else Array(values) for name, values in tensors.items()})


def filled(items: Mapping[str, Array]) -> ArrayRecord:
    """Return a record of arrays, which its constructor would copy and check one by one, bytes and all."""
    found = ArrayRecord()
    found.__dict__["_data"].update(items)  # flwr.app.message.typeddict
    return found


def is_local(given: ArrayRecord) -> bool:
    """Return whether a record's arrays were handed over on this machine, so that the answer may be, too."""
    return any(isinstance(array, packed.Held) for array in given.values())


_ROOM: list[Room] = []


def room(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an uninitialised float32 array for an answer, where the asker reads it without a copy if there is room."""
    return _ROOM[-1](shape) if _ROOM else np.empty(shape, np.float32)


def use_room(of: Room | None) -> None:
    """Let this process's answers be written to the memory that `of` gives, or anywhere again (None)."""
    _ROOM[:] = [] if of is None else [of]
