"""What a pickle of a verification set may name, made by code that stands here; see `fedveil.data.pickled`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = "bBiuf"  # of array elements: truth values and numbers


class Refused(Exception):
    """The bytes are no pickle of plain values; the message says why, and where in the file."""


@dataclasses.dataclass(frozen=True)
class Name:
    """What a pickle names; it is never looked up."""

    module: str
    name: str


@dataclasses.dataclass
class Array:
    """What NumPy's `_reconstruct` returns, until its state follows."""

    value: NDArray[Any] | None = None


@dataclasses.dataclass
class Type:
    """What NumPy's `dtype` returns; its state says the byte order."""

    code: str
    order: str = "|"

    def real(self) -> np.dtype[Any]:
        """Return NumPy's own type."""
        return np.dtype(("<" if self.order in "|=" else self.order) + self.code)


def refuse(reason: str) -> Any:
    """Raise `Refused`, where an expression is wanted."""
    raise Refused(reason)


def moved(module: str) -> str:
    """Return what NumPy 2 calls a module, without its underscore, and Python 3 Python 2's."""
    return {"__builtin__": "builtins"}.get(module, module.replace("numpy._core.", "numpy.core."))


def finished(value: Any) -> Any:
    """Return a value without the machine's own stand-ins."""
    if isinstance(value, Array):
        return value.value if value.value is not None else refuse("an array without content")
    return value


def array(shape: Any, kind: Any, content: Any, fortran: bool) -> NDArray[Any]:
    """Return an array over `content`, if it holds exactly what shape and kind say."""
    sound = isinstance(shape, tuple) and all(isinstance(n, int) and 0 <= n < 2**31 for n in shape) and len(shape) < 5
    if not sound or not isinstance(kind, Type):
        raise Refused("damaged (an array's shape or type)")
    real, found = kind.real(), bytes(content.encode("latin-1") if isinstance(content, str) else content)
    if len(found) != math.prod(shape) * real.itemsize:
        raise Refused(f"an array of {shape} needs {math.prod(shape) * real.itemsize} bytes and has {len(found)}")
    return np.frombuffer(found, real).reshape(shape, order="F" if fortran else "C")


def _type(code: Any, *_: Any) -> Type:
    word = str(code, "ascii") if isinstance(code, memoryview) else str(code)
    if len(word) != 2 or word[0] not in _KINDS or word[1] not in "1248":
        raise Refused(f"an array of {word[:20]!a}, where truth values or numbers were expected")
    return Type(word)


def _scalar(kind: Any, content: Any) -> Any:
    return array((), kind, content, False).item()


def _encoded(text: Any, encoding: Any = "latin1") -> memoryview:
    """Return bytes as Python 3 writes them for Python 2: text, and how it is to be encoded."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("damaged (bytes in an unknown encoding)")
    return memoryview(text.encode("latin-1"))


NAMES: dict[Name, Callable[..., Any] | None] = {
    Name("numpy.core.multiarray", "_reconstruct"): lambda *_: Array(),
    Name("numpy.core.multiarray", "scalar"): _scalar,
    Name("numpy.core.numeric", "_frombuffer"): lambda data, kind, shape, order: array(shape, kind, data, order == "F"),
    Name("numpy", "dtype"): _type,
    Name("numpy", "ndarray"): None,  # an argument of _reconstruct, never called
    Name("_codecs", "encode"): _encoded,
    Name("builtins", "bytes"): lambda *given: memoryview(b"") if not given else refuse("it calls bytes"),
}
"""What real files name, and what becomes of it: values made here, none looked up."""
