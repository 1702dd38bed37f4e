"""Arrays that arrive in Flower's form: known in size before they are unpacked, and exactly what was expected."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from fedveil.federation.instruction import BadInstruction, one_line

_STATE = 1 << 28  # bytes of a protection's state
_HEADER = 1 << 10  # bytes before an array's values
_FLOATS = (np.dtype("<f4"), np.dtype("<f8"))
_SMALL = 1 << 14  # numbers whose mask costs less than asking Torch


class Packed(Protocol):
    """An .npy file in memory, and how its sender says that it was made."""

    stype: str
    data: bytes


class Held:
    """An array that came from this machine's own memory and was never written as bytes; nothing from a network is one.

    Attributes:
        values: read-only; whoever wants to keep them beyond the message copies them.
    """

    values: NDArray[Any]


def all_finite(values: NDArray[np.float32]) -> bool:
    """Return whether all values are finite.

    A sum tells without a mask of the values' size: it is finite only if they are. One that is not may have overflowed.
    Torch, which is warned of nothing, adds large arrays in a third of NumPy's time.

    >>> all_finite(np.array([1.0, np.inf, -np.inf], np.float32)), all_finite(np.full(9, 3e38, np.float32))
    (False, True)
    """
    if values.size > _SMALL and values.flags.c_contiguous and values.dtype in _FLOATS:
        total = float(from_dlpack(values).sum())  # from_numpy warns of values that are read-only
        return math.isfinite(total) or bool(np.isfinite(values).all())
    return bool(np.isfinite(values).all())


def tensors(
    given: Mapping[str, Packed], shapes: Mapping[str, tuple[int, ...]], what: str = "tensor", finite: bool = True,
    own: bool = True,
) -> dict[str, NDArray[np.float32]]:
    """Return arrays that are exactly the expected ones, float32; nothing is unpacked before its size is known.

    Args:
        given: name -> array as it arrived.
        shapes: name -> expected shape.
        what: "tensor", for messages.
        finite: refuse values that are not.
        own: copies, which may be changed; else they may be looks at the bytes that arrived, for reading.

    Raises:
        BadInstruction: another set of names, another shape or type, damaged bytes, values that are not finite.
    """
    if set(given) != set(shapes):
        odd = sorted(set(given) ^ set(shapes))
        raise BadInstruction(f"Expected other {what}s: {[name[:80] for name in odd[:3]]} are too many or missing.")
    found: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        values = _unpacked(given[name], f"{what} {name}", 4 * math.prod(shape), own)
        if values.dtype != np.float32 or values.shape != tuple(shape):
            raise BadInstruction(f"Expected {what} {name} float32 {tuple(shape)}, got {values.dtype} {values.shape}.")
        if finite and not all_finite(values):
            raise BadInstruction(f"Expected {what} {name} to be finite.")
        found[name] = values
    return found


def state(given: Mapping[str, Packed]) -> dict[str, NDArray[Any]]:
    """Return a protection's public state as it arrived, of plausible size; its `check_state` has the last word."""
    if sum(map(_bytes, given.values())) > _STATE or len(given) > 10_000:
        raise BadInstruction(f"Expected a state of at most {_STATE} bytes in all.")
    found = {name: _unpacked(array, f"state {name[:80]}", _STATE) for name, array in given.items()}
    return {name: values if values.flags.writeable else values.copy() for name, values in found.items()}


def _bytes(array: Packed) -> int:
    return int(array.values.nbytes) if isinstance(array, Held) else len(array.data)


def _unpacked(array: Packed, what: str, most: int, own: bool = True) -> NDArray[Any]:
    """Return the floats of an .npy file in memory, of at most `most` bytes, writable if they are to be one's own.

    Values that this machine's memory holds are checked alike and returned as they are, read-only.
    """
    if isinstance(array, Held):
        if array.values.dtype not in _FLOATS or array.values.nbytes > most:
            found = f"{array.values.dtype} {array.values.shape}"
            raise BadInstruction(f"Expected {what} as floats of at most {most} bytes, got {found}.")
        return array.values
    if array.stype != "numpy.ndarray" or not isinstance(array.data, bytes) or len(array.data) > most + _HEADER:
        raise BadInstruction(f"Expected {what} as an .npy file of at most {most} bytes, got {len(array.data)}.")
    stream = io.BytesIO(array.data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("another version of the format")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER)
        if dtype not in _FLOATS:
            raise ValueError(f"values of type {dtype}")
        values = np.frombuffer(array.data, dtype, offset=stream.tell())
        if values.size != math.prod(shape):
            raise ValueError(f"{values.size} values in the shape {shape}")
        values = values.reshape(shape, order="F" if by_columns else "C")
        return values.copy() if own or not (values.flags.aligned and values.flags.c_contiguous) else values
    except Exception as error:  # foreign bytes: whatever reading them raises concerns their sender alone
        raise BadInstruction(f"Expected {what} as an .npy file of floats: {one_line(error)}") from error
