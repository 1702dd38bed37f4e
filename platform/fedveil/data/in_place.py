"""Large arrays of an .npz file that stay where they are: read at places when asked for, never as a whole.

Not mapped: a file that is cut off under a mapping ends the process, here it is an error with a reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedveil.data import files
from fedveil.data.colours import Undecodable

LARGE = 1 << 26
"""Bytes from which an array is left in its file."""
_LOCAL = struct.Struct("<4s22xHH")  # what precedes a member: its mark, and the lengths of its name and extra field


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array of bytes, uint8 in C order, at `begin` of a file that had `size` bytes and changed at `changed`."""

    path: Path
    begin: int
    shape: tuple[int, ...]
    size_of_file: int
    changed: int

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Return the type of its elements."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """Return the number of its axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Return the number of its elements, which are bytes."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return `array[start:stop]`.

        Raises:
            Undecodable: the file has changed since it was opened, or cannot be read any more.
        """
        row = math.prod(self.shape[1:])
        with self._opened() as descriptor:
            data = os.pread(descriptor, (stop - start) * row, self.begin + start * row)
        if len(data) < (stop - start) * row:
            raise Undecodable("its file has become shorter")
        return np.frombuffer(data, np.uint8).reshape(stop - start, *self.shape[1:])

    def at(self, places: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """Return (N, length): the bytes of a flat array from each place on; a place is one of a whole run."""
        with self._opened() as descriptor:
            data = b"".join([os.pread(descriptor, length, self.begin + place) for place in places.tolist()])
        return np.frombuffer(data, np.uint8).reshape(-1, length)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            with files.opened(self.path) as stream:
                state = os.fstat(stream.fileno())
                if (state.st_size, state.st_mtime_ns) != (self.size_of_file, self.changed):
                    raise Undecodable("its file has changed since it was opened")
                yield stream.fileno()
        except OSError as error:
            raise Undecodable(f"its file is {files.reason(error)}") from error


Bytes = NDArray[np.uint8] | Stored
"""Bytes in memory or in their file."""


def rows(array: Bytes, start: int, stop: int) -> NDArray[np.uint8]:
    """Return `array[start:stop]`, wherever it is."""
    return array.rows(start, stop) if isinstance(array, Stored) else array[start:stop]


def at(array: Bytes, places: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
    """Return (N, length): the bytes of a flat array from each place on, wherever it is."""
    return array.at(places, length) if isinstance(array, Stored) else array[places[:, None] + np.arange(length)]


def stored(stream: BinaryIO, path: Path, member: zipfile.ZipInfo) -> Stored | None:
    """Return a large uncompressed array of bytes in its place; None for any other member, which is to be loaded.

    Raises:
        ValueError: a member that is not what its headers say.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 or member.file_size < LARGE:
        return None
    stream.seek(member.header_offset)
    mark, name, extra = _LOCAL.unpack(stream.read(_LOCAL.size).ljust(_LOCAL.size, b"\0"))
    start = member.header_offset + _LOCAL.size + name + extra
    stream.seek(start)
    version = np.lib.format.read_magic(stream)
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }  # fmt: skip
    if mark != b"PK\x03\x04" or version not in readers:
        raise ValueError(f"{member.filename} is not where the archive says")
    shape, fortran, kind = readers[version](stream)
    if kind != np.uint8 or fortran or not shape:
        return None
    state = os.fstat(stream.fileno())
    begin = stream.tell()
    if begin - start + math.prod(shape) != member.file_size or start + member.file_size > state.st_size:
        raise ValueError(f"{member.filename} of {shape} does not fill its place")
    return Stored(path, begin, shape, state.st_size, state.st_mtime_ns)
