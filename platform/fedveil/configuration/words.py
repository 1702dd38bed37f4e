"""The words of the command line: `group=name`, `section.key=value`, and the several values of a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import yaml

from fedveil import checks
from fedveil.configuration import plugins

METHOD_GROUPS = tuple(plugins.GROUPS)
SETTING_GROUPS = ("engine", "tracking")
"""Groups whose settings are typed by `schema` itself: their YAML files are alternatives of one small record."""


def _value(key: str, text: str) -> Any:
    """Read one command-line value: YAML's numbers, booleans and lists; `none` and `inf` are typed words."""
    if text.strip().lower() in ("none", "null"):
        return None
    if text.strip().lower() in ("inf", "-inf"):
        return float(text)
    _one(key, text)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise checks.UserError(f"{key}={text!r} cannot be read as a value: {error}") from error
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as a string
        try:
            return float(value) if math.isfinite(float(value)) else value
        except ValueError:
            return value
    return value


def several(text: str) -> list[str]:
    """Return the values that a sweep's `key=a,b,c` lists; commas within brackets or quotes separate nothing.

    >>> several("1,inf"), several("[1,2],[3]"), several("'a,b'")
    (['1', 'inf'], ['[1,2]', '[3]'], ["'a,b'"])
    """
    found, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        depth += 0 if quote else (sign in "[{") - (sign in "]}")
        if sign == "," and not quote and depth <= 0:
            found.append("")
        else:
            found[-1] += sign
    return [value.strip() for value in found]


def _one(key: str, text: str) -> None:
    if len(several(text)) > 1:
        a_list = "" if key in (*METHOD_GROUPS, *SETTING_GROUPS, "study") else f" A list is {key}=[{text}]."
        raise checks.UserError(
            f"{key}={text} lists several values, which is a sweep of runs: `fedveil sweep {key}=...` does it.{a_list}"
        )


def split(words: Iterable[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Separate `group=name` words from dotted overrides.

    >>> split(["train.rounds=3", "protection=none"])
    ({'protection': 'none'}, {'train.rounds': 3})
    """
    groups: dict[str, str] = {}
    dotted: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise checks.UserError(f"Expected group=name or section.key=value, got {word!r}.")
        if key in (*METHOD_GROUPS, *SETTING_GROUPS, "study"):
            _one(key, text)
            groups[key] = text
        elif key.endswith(".name") and key.count(".") == 1 and key[:-5] in (*METHOD_GROUPS, *SETTING_GROUPS):
            raise checks.UserError(f"A method is chosen by its group: write {key[:-5]}={text} instead of {word}.")
        else:
            dotted[key] = _value(key, text)
    return groups, dotted


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a nested tree, making the blocks on the way."""
    *path, last = key.split(".")
    for step in path:
        below = tree.get(step)
        if not isinstance(below, dict):
            below = tree[step] = {}
        tree = below
    tree[last] = value
