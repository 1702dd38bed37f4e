"""Plain values in a pickle, read without running it.

A pickle is a program for a stack machine, and Python's own reader calls whatever the program names. This one is another
machine: it knows the instructions that lists of pictures and answers are made of, and looks no name up. The few names
that real files hold become plain values by the code of `pickled_values`; any other name, and any instruction that could
make an object, ends the reading with a message that says what the file wanted to do.

Strings of bytes are not copied: they stay where they are in the file, as slices of what was given. Nothing is allocated
on the word of a length field. Reference: the comments of CPython's `Lib/pickletools.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from fedveil.data.pickled_values import NAMES, Array, Name, Type, array, moved, refuse
from fedveil.data.pickled_values import Refused as Refused
from fedveil.data.pickled_values import finished as finished

_MOST = 50_000_000  # instructions; a benchmark of 7,000 pairs has about 60,000


class _Mark:
    """Where a group of values begins on the stack."""


def read(data: memoryview) -> Any:
    """Return the value of a pickle: bytes (as memoryviews), text, numbers, truth values, None, lists, tuples, arrays.

    Python 2's strings count as bytes. Arrays, of truth values or numbers, are NumPy's after `finished`.

    Raises:
        Refused: anything else, or bytes that end too early or go on after the end.
    """
    return _Machine(data).run()


class _Machine:
    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._made = 0  # bytes of values that are copies

    def run(self) -> Any:
        for _ in range(_MOST):
            start = self._at
            code = self._take(1)[0]
            if code == 0x2E:  # STOP
                return self._end()
            if code not in _INSTRUCTIONS:
                raise Refused(f"byte {start}: instruction {code:#04x} is none that lists of pictures need")
            try:
                _INSTRUCTIONS[code](self)
            except Refused as error:
                raise Refused(f"byte {start}: {error}") from None
            except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
                raise Refused(f"byte {start}: damaged ({type(error).__name__})") from error
        raise Refused(f"more than {_MOST:,} instructions")

    def _end(self) -> Any:
        if len(self._stack) != 1:
            raise Refused(f"it ends with {len(self._stack)} values instead of one")
        if self._at < len(self._data):
            raise Refused(f"{len(self._data) - self._at} bytes follow its end")
        return self._pop()

    def _take(self, length: int) -> memoryview:
        if length < 0 or self._at + length > len(self._data):
            raise Refused(f"it is cut off after {len(self._data):,} bytes")
        found = self._data[self._at : self._at + length]
        self._at += length
        return found

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _line(self) -> str:
        """Return text to the end of the line, which names and Python 2's truth values end with."""
        start = self._at
        while self._take(1)[0] != 0x0A:
            if self._at - start > 300:
                raise Refused("a name of more than 300 characters")
        return str(self._data[start : self._at - 1], "utf-8")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise Refused("damaged (a value is missing)")
        return value

    def _group(self) -> list[Any]:
        """Return the values above the last mark, without both."""
        for place in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[place], _Mark):
                found = self._stack[place + 1 :]
                del self._stack[place:]
                return found
        raise Refused("damaged (a mark is missing)")

    def _tuple(self, length: int) -> None:
        found = [self._pop() for _ in range(length)]
        self._push(tuple(reversed(found)))

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise Refused("damaged (what is appended to is no list)")
        target.extend(values)

    def _protocol(self) -> None:
        if (version := self._number("<B")) > 5:
            raise Refused(f"protocol {version}, which is not known")

    def _frame(self) -> None:
        """Pass over how much to read ahead: everything is here already."""
        self._number("<Q")

    def _whole(self) -> None:
        """Read Python 2's `I01`, `I00` or a decimal number."""
        line = self._line()
        if line in ("00", "01"):
            self._push(line == "01")
        else:
            self._push(int(line) if len(line) < 20 else refuse("a number of too many digits"))

    def _long(self) -> None:
        length = self._number("<B")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _text(self, form: str) -> None:
        self._push(str(self._take(self._number(form)), "utf-8", "surrogatepass"))

    def _named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("damaged (a name is no text)")
        found = Name(moved(module), name)
        if found not in NAMES:
            raise Refused(f"it names {module[:60]!a}.{name[:60]!a}: it is a program, not a list of pictures")
        self._push(found)

    def _global(self) -> None:
        module = self._line()
        self._named(module, self._line())

    def _stack_global(self) -> None:
        name = self._pop()
        self._named(self._pop(), name)

    def _reduce(self) -> None:
        arguments, called = self._pop(), self._pop()
        made = NAMES.get(called) if isinstance(called, Name) else None
        if made is None or not isinstance(arguments, tuple):
            raise Refused("it calls something that is no function of a list of pictures")
        value = made(*map(finished, arguments))
        self._spend(value)
        self._push(value)

    def _spend(self, value: Any) -> None:
        """Refuse what copies one part of the file again and again."""
        self._made += getattr(value, "nbytes", 0)
        if self._made > 4 * len(self._data):
            raise Refused("it unpacks to far more than it holds")

    def _build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, Type) and isinstance(state, tuple):
            target.order = state[1] if state[1] in ("|", "<", ">", "=") else refuse("an unknown byte order")
        elif isinstance(target, Array) and isinstance(state, tuple):
            target.value = array(state[1], state[2], state[4], bool(state[3]))
            self._spend(target.value)
        else:
            raise Refused("it sets the state of an object, which lists of pictures do not hold")


def _binary(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine._push(machine._take(machine._number(form)))


def _stored(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine._memo.__setitem__(machine._number(form), machine._stack[-1])


def _recalled(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine._push(machine._memo[machine._number(form)])


def _constant(make: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine._push(make())


_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine._protocol,
    0x95: _Machine._frame,
    ord("("): _constant(_Mark),
    ord("]"): _constant(list),
    ord(")"): _constant(tuple),
    ord("N"): _constant(lambda: None),
    0x88: _constant(lambda: True),
    0x89: _constant(lambda: False),
    ord("I"): _Machine._whole,
    ord("J"): lambda m: m._push(m._number("<i")),
    ord("K"): lambda m: m._push(m._number("<B")),
    ord("M"): lambda m: m._push(m._number("<H")),
    0x8A: _Machine._long,
    ord("U"): _binary("<B"),
    ord("T"): _binary("<i"),
    ord("C"): _binary("<B"),
    ord("B"): _binary("<I"),
    0x8E: _binary("<Q"),
    0x96: _binary("<Q"),
    ord("X"): lambda m: m._text("<I"),
    0x8C: lambda m: m._text("<B"),
    ord("t"): lambda m: m._push(tuple(m._group())),
    ord("l"): lambda m: m._push(m._group()),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    ord("a"): lambda m: m._extend([m._pop()]),
    ord("e"): lambda m: m._extend(m._group()),
    ord("q"): _stored("<B"),
    ord("r"): _stored("<I"),
    0x94: lambda m: m._memo.__setitem__(len(m._memo), m._stack[-1]),
    ord("h"): _recalled("<B"),
    ord("j"): _recalled("<I"),
    ord("c"): _Machine._global,
    0x93: _Machine._stack_global,
    ord("R"): _Machine._reduce,
    ord("b"): _Machine._build,
}
"""Instruction -> what it does to the machine; see the module's docstring."""
