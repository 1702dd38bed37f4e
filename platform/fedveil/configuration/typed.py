"""From plain JSON and YAML types to the typed shape, strictly: nothing is converted but a whole number to a float.

The words of the command line have no types of their own; `text` reads them by the same shapes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fedveil import checks
from fedveil.configuration.marks import FOLDER, INFINITE
from fedveil.configuration.schema import Group

NOTHING = type(None)


def hints(kind: Any) -> dict[str, Any]:
    """Return {field: type} of a dataclass in its order, marks such as `marks.INFINITE` included."""
    return _hints(kind)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    known = typing.get_type_hints(kind, include_extras=True)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def options(kind: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union in their order, or the type itself alone.

    >>> options(int | None), options(str)
    ((<class 'int'>, <class 'NoneType'>), (<class 'str'>,))
    """
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def marks(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its marks, and the marks."""
    if typing.get_origin(kind) is Annotated:
        bare, *found = typing.get_args(kind)
        return bare, tuple(found)
    return kind, ()


def wanted(kind: Any) -> str:
    """Return a type in words.

    >>> wanted(int | None), wanted(tuple[float, ...]), wanted(Literal["a", "b"])
    ('a whole number, or none', 'a list of numbers such as [a,b]', "one of ['a', 'b']")
    """
    if len(options(kind)) > 1:
        return ", or ".join("none" if option is NOTHING else wanted(option) for option in options(kind))
    kind, found = marks(kind)
    if FOLDER in found:
        return "a folder"
    if typing.get_origin(kind) is Literal:
        return f"one of {list(typing.get_args(kind))}"
    if typing.get_origin(kind) is tuple:
        return f"a list of {wanted(typing.get_args(kind)[0]).split(' ', 1)[1]}s such as [a,b]"
    if dataclasses.is_dataclass(kind):
        return "a block of settings"
    plain = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    return plain[kind] + " or inf" * (INFINITE in found)


def from_tree(kind: Any, value: Any, path: str) -> Any:
    """Return `value` (plain JSON types) as `kind`: a dataclass, a union, a literal, a tuple or a scalar.

    A whole number serves as a float; beyond that a number is no word, a word no number, 3.0 no whole number and true
    no 1. `inf`, for which JSON has no number, is written as a word and is taken where the type says so; never nan.

    Raises:
        fedveil.checks.UserError: naming the dotted path, the value and what was expected.

    >>> from_tree(float, 3, "train.lr"), from_tree(tuple[float, ...], [0.1, 1], "far")
    (3.0, (0.1, 1.0))
    >>> from_tree(int, 3.0, "train.rounds")
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Expected train.rounds=3.0 to be a whole number.
    """
    if len(options(kind)) > 1:
        return _one_of(kind, value, path)
    bare, found = marks(kind)
    if bare is Group:
        return _group(value, path)
    if dataclasses.is_dataclass(bare):
        return block(bare, value, path)
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if origin is Literal:
        # Earlier versions wrote null for a choice that is called `none`.
        value = "none" if value is None and "none" in arguments else value
        if not isinstance(value, str) or value not in arguments:
            near = checks.nearest(str(value), [str(a) for a in arguments])
            raise checks.UserError(f"Expected {path}={value!r} to be {wanted(kind)}.{near}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            _fail(kind, value, path)
        return tuple(from_tree(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    return _scalar(kind, value, path, INFINITE in found)


def _fail(kind: Any, value: Any, path: str) -> typing.NoReturn:
    raise checks.UserError(f"Expected {path or 'configuration'}={value!r} to be {wanted(kind)}.")


def _one_of(kind: Any, value: Any, path: str) -> Any:
    rest = [option for option in options(kind) if option is not NOTHING]
    if value is None and len(rest) < len(options(kind)):
        return None
    if len(rest) == 1 and dataclasses.is_dataclass(rest[0]) and isinstance(value, Mapping):
        return from_tree(rest[0], value, path)  # whose own refusals say more
    for option in rest:
        try:
            return from_tree(option, value, path)
        except checks.UserError:
            continue
    _fail(kind, value, path)


def _group(value: Any, path: str) -> Group:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise checks.UserError(f"Expected {path}={value!r} to be a block with the name of a method.")
    return Group(value["name"], {key: item for key, item in value.items() if key != "name"})


def block(kind: Any, value: Any, path: str) -> Any:
    """Return a mapping as the dataclass `kind`, whose own refusals get the dotted path of what they name.

    Raises:
        fedveil.checks.UserError: an unknown or missing field, or a value that its type or the dataclass refuses.
    """
    if not isinstance(value, Mapping):
        _fail(kind, value, path)
    prefix, known = f"{path}." if path else "", hints(kind)
    for key in value:
        if key not in known:
            raise checks.UserError(f"Unknown setting {prefix}{key}.{checks.nearest(str(key), known)}")
    needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    missing = [f"{prefix}{name}" for name in needed if name not in value]
    if missing:
        raise checks.UserError(f"Incomplete block {path or 'configuration'}: it lacks {', '.join(missing)}.")
    made = {key: from_tree(known[key], item, f"{prefix}{key}") for key, item in value.items()}
    try:
        return kind(**made)
    except checks.UserError as error:
        name = re.match(r"Expected (\w+)=", str(error))
        full = f"Expected {prefix}{name[1]}={str(error)[name.end() :]}" if name and name[1] in known else str(error)
        raise checks.UserError(full) from None


def _scalar(kind: Any, value: Any, path: str, infinite: bool) -> Any:
    bare = marks(kind)[0]
    if bare is not float:
        return value if type(value) is bare else _fail(kind, value, path)
    if infinite and value in ("inf", math.inf):
        return math.inf
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        number = math.inf
    return number if math.isfinite(number) else _fail(kind, value, path)
