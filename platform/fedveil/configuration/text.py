r"""What a person types, read by the type of the setting it is for, and values written as words again.

A setting of type word takes its text as it stands: no quote, bracket, hash or number in it means anything. A number is
decimal, `true` and `false` are the truth values, `none` (or `null`) leaves an optional setting empty and `inf` is for
the few numbers that may be infinite, in upper or lower case. A list is `[a,b]`; one element needs no brackets. An
element, or a value of a sweep, that holds a comma, a bracket or spaces at its ends stands in quotes, in which the same
quote is doubled: `[a,"b,c"]`. A block is `{field: value, field: value}`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable
from typing import Any, Literal

from fedveil import checks
from fedveil.configuration import typed
from fedveil.configuration.marks import FOLDER, INFINITE

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 2**63  # beyond it nothing that counts or seeds makes sense, and arithmetic on it fails late
# Possessive, so that a long text without its closing quote or bracket is read once and not in every possible way.
_QUOTED = r"""\s*(?:"(?:[^"]|"")*+"|'(?:[^']|'')*+')\s*"""
_LISTED = rf"""\s*\[(?:{_QUOTED}(?=[,\]])|[^\]])*+\]\s*"""
_PIECE = re.compile(rf"({_QUOTED}|[^,]*)(,|\Z)")
_PIECE_OR_LIST = re.compile(rf"({_QUOTED}|{_LISTED}|[^,]*)(,|\Z)")
_PLAIN = re.compile(r"[^\s,'\"\[\]{}](?:[^,'\"\[\]{}]*[^\s,'\"\[\]{}])?")
_SHOWN = 60  # characters of a value that a message repeats
_TRUTH = {True: ("true", "yes", "on", "y", "t", "1"), False: ("false", "no", "off", "n", "f", "0")}


class _Unreadable(Exception):
    """The text is no value of the type; the message is the remedy."""


def read(kind: Any, text: str, key: str) -> Any:
    """Return the text as a value of plain JSON types that `typed.from_tree` takes for `kind`; `inf` as a float.

    Raises:
        fedveil.checks.UserError: naming the setting, the text, what was expected and what to write instead.

    >>> read(str, "faces #2", "data.root"), read(int | None, "none", "data.cap"), read(float, "1e-3", "train.lr")
    ('faces #2', None, 0.001)
    >>> read(int, "010", "seed")
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Expected seed='010' to be a whole number. Write 10.
    """
    if text == "":
        raise checks.UserError(f"{key}= is empty: an unset variable of the shell? Leave the word out for its default.")
    return _named(kind, text, key)


def _named(kind: Any, text: str, key: str) -> Any:
    try:
        return _read(kind, text, key)
    except _Unreadable as wrong:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        shown = shown if _DECIMAL.fullmatch(shown) else repr(shown)
        raise checks.UserError(f"Expected {key}={shown} to be {typed.wanted(kind)}.{wrong}") from None


def _read(kind: Any, text: str, key: str) -> Any:
    rest = [option for option in typed.options(kind) if option is not typed.NOTHING]
    if len(rest) < len(typed.options(kind)) and text.lower() in ("none", "null"):
        return None
    for option in rest[:-1]:
        try:
            return _read(option, text, key)
        except _Unreadable:
            continue
    bare, marks = typed.marks(rest[-1])
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if dataclasses.is_dataclass(bare):
        return _block(bare, text, key)
    if origin is Literal:
        return text if text in arguments else _refuse(checks.nearest(text, [str(each) for each in arguments]))
    if origin is tuple:
        items = pieces(text.strip()[1:-1]) if _is_list(text) else [text]
        listed = [] if items == [""] else items
        return [_element(arguments[0], item, f"{key}[{place}]") for place, item in enumerate(listed)]
    if bare is str:
        return _folder(text) if FOLDER in marks else text
    text = text.strip(" ")
    return _truth(text) if bare is bool else _whole(text) if bare is int else _number(text, INFINITE in marks)


def _refuse(remedy: str = "") -> typing.NoReturn:
    raise _Unreadable(remedy)


def _folder(text: str) -> str:
    if text.lower() in ("none", "null"):
        _refuse(f" There must be one; a folder of that name is ./{text}.")
    if text.startswith("~"):
        _refuse(f" The shell did not replace ~: write $HOME, or ./{text} for a folder of that name.")
    return text


def _truth(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    meant = next((str(value).lower() for value, names in _TRUTH.items() if text.lower() in names), None)
    return _refuse(f" Did you mean '{meant}'?" if meant else "")


def _whole(text: str) -> int:
    value = _value_of(text)
    if value is not None and -_LARGEST < value < _LARGEST and _WHOLE.fullmatch(text):
        return int(value)
    if _WHOLE.fullmatch(text):
        _refuse(" It has more than 63 bits.")
    whole = value is not None and abs(value) < _LARGEST and value == int(value)
    return _refuse(f" Write {int(value)}." if whole and value is not None else "")


def _number(text: str, infinite: bool) -> float:
    if text.lower() == "inf" and infinite:
        return math.inf
    if not _DECIMAL.fullmatch(text):
        meant = "inf" if infinite and text.lower() in (".inf", "infinity") else _value_of(text)
        return _refuse(f" Write {meant}." if meant is not None else "")
    number = float(text)
    if math.isinf(number):
        _refuse(" It is beyond the largest number there is.")
    if number == 0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        _refuse(" It is closer to 0 than the smallest number there is.")
    return number


def _value_of(text: str) -> int | float | None:
    """Return what other languages would make of a number, as a whole number where it is one; None for nothing."""
    convert: Callable[[str], int | float]
    for convert in (int, lambda digits: int(digits, 0), float):
        try:
            value = convert(text)
        except ValueError:
            continue
        if isinstance(value, int) or math.isfinite(value):
            return value
    return None


def _is_list(text: str) -> bool:
    return text.strip().startswith("[") and text.strip().endswith("]") and len(text.strip()) > 1


def _element(kind: Any, text: str, key: str) -> Any:
    """Read one element of a list or one field of a block, which may stand in quotes."""
    if text == "":
        raise checks.UserError(f"{key} is empty: two commas in a row, or one at the end?")
    return _named(kind, unquoted(text), key)


def _block(kind: Any, text: str, key: str) -> dict[str, Any]:
    """Return `{field: value, ...}` as a mapping."""
    known, inner = typed.hints(kind), text.strip()
    if not (inner.startswith("{") and inner.endswith("}")):
        _refuse(f" Its settings are words of their own, e.g. {key}.{next(iter(known))}=...")
    found = {}
    for piece in filter(None, pieces(inner[1:-1], lists=True)):
        name, colon, value = (part.strip() for part in piece.partition(":"))
        if not colon:
            _refuse(f" {piece!r} is no field: value.")
        if name not in known:
            raise checks.UserError(f"Unknown setting {key}.{name}.{checks.nearest(name, known)}")
        if name in found:
            raise checks.UserError(f"{key}={text} names {name} twice; keep one.")
        found[name] = _element(known[name], value, f"{key}.{name}")
    if not found:
        _refuse(" It holds no setting: leave it out for the default, or write none.")
    return found


def inner(key: str, text: str) -> dict[str, str]:
    """Return what a block says as words of their own, `key.field` -> text; any other value as it is.

    >>> inner("train.cohort", "{kind: poisson, rate: 1.0}"), inner("seed", "1")
    ({'train.cohort.kind': 'poisson', 'train.cohort.rate': '1.0'}, {'seed': '1'})
    """
    plain = text.strip()
    if not (plain.startswith("{") and plain.endswith("}")):
        return {key: text}
    parts = (piece.partition(":") for piece in pieces(plain[1:-1], lists=True))
    return {f"{key}.{name.strip()}": value.strip() for name, colon, value in parts if colon}


def pieces(text: str, lists: bool = False) -> list[str]:
    """Return what commas separate, without spaces at the ends; commas in quotes separate nothing.

    Args:
        text: e.g. what stands between the brackets of a list, or the values of a sweep.
        lists: commas within brackets separate nothing either.

    >>> pieces("1, inf"), pieces("[1,2],[3]", lists=True), pieces("'a,b',it's,[c")
    (['1', 'inf'], ['[1,2]', '[3]'], ["'a,b'", "it's", '[c'])
    """
    pattern, found, place = _PIECE_OR_LIST if lists else _PIECE, [], 0
    while True:
        match = pattern.match(text, place)
        assert match is not None  # the last alternative takes anything
        found.append(match[1].strip())
        place = match.end()
        if not match[2]:
            return found


def unquoted(piece: str) -> str:
    """Return a piece without the quotes around all of it, if there are any.

    >>> unquoted("'a,b'"), unquoted('"a ""b"" c"'), unquoted("it's")
    ('a,b', 'a "b" c', "it's")
    """
    if not re.fullmatch(_QUOTED, piece):
        return piece
    inner = piece.strip()
    return inner[1:-1].replace(2 * inner[0], inner[0])


def spoken(value: Any) -> str:
    """Return a value of plain types as the text that `read` takes for it.

    >>> spoken(None), spoken(True), spoken(1e-5), spoken([0.1, 1]), spoken(["dctdp", "a,b"])
    ('none', 'true', '1e-05', '[0.1,1]', '[dctdp,"a,b"]')
    """
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_quoted(spoken(item)) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '""') + '"'
