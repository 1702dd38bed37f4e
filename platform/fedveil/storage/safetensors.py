"""Tensors in one file that other programs read: the safetensors format, eight bytes, a JSON header, and the values.

Its readers carry out nothing that stands in a file (https://github.com/huggingface/safetensors, section Format).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks

SUFFIX = ".safetensors"
_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
_LONGEST = 100_000_000  # bytes of a header, as other readers have it


def pack(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, str]) -> bytes:
    """Return arrays and a few words about them as the bytes of one file.

    Args:
        arrays: of the types float64, float32, float16, int64, int32, uint8 or bool.
        meta: kept as the file's `__metadata__`.
    """
    kinds = {np.dtype(code): kind for kind, code in _KINDS.items()}
    little = {name: np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    ends = list(itertools.accumulate((array.nbytes for array in little.values()), initial=0))
    header: dict[str, Any] = {"__metadata__": dict(meta)}
    for (name, array), begin, end in zip(little.items(), ends, ends[1:], strict=False):
        header[name] = {"dtype": kinds[array.dtype], "shape": arrays[name].shape, "data_offsets": [begin, end]}
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in little.values())])


def unpack(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors of a file by name, and its words; bfloat16 comes as float32.

    Raises:
        fedveil.checks.UserError: naming the file and what is wrong with it.
    """
    try:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > min(_LONGEST, len(data) - 8):
            raise ValueError("it is cut short")
        header = json.loads(data[8 : 8 + length])
        body, meta = memoryview(data)[8 + length :], header.pop("__metadata__", {})
        return {name: _array(body, name, header[name]) for name in header}, {str(k): str(v) for k, v in meta.items()}
    except OSError as error:
        raise checks.UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise checks.UserError(f"{path} is not a readable safetensors file: {error}.") from error


def _array(body: memoryview, name: str, said: Mapping[str, Any]) -> NDArray[Any]:
    kind, shape, (begin, end) = said["dtype"], [int(side) for side in said["shape"]], said["data_offsets"]
    code = "<u2" if kind == "BF16" else _KINDS.get(kind)
    if code is None:
        raise ValueError(f"{name} has type {kind}, which is none of {sorted([*_KINDS, 'BF16'])}")
    if any(side < 0 for side in shape) or not 0 <= begin <= end <= len(body):
        raise ValueError(f"{name} is said to be where the file has nothing")
    if end - begin != math.prod(shape) * np.dtype(code).itemsize:
        raise ValueError(f"{name} has another number of bytes than its shape {tuple(shape)}")
    found = np.frombuffer(body[begin:end], code).reshape(shape)
    return (found.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else found.copy()
