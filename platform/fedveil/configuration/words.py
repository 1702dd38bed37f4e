"""The words of the command line: `group=name`, `section.key=value`, and the several values of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedveil import checks
from fedveil.configuration import plugins, text

ATTACK = "attack"
METHOD_GROUPS = tuple(group for group in plugins.GROUPS if group != ATTACK)
SETTING_GROUPS = ("engine", "tracking")
"""Groups whose settings are typed by `schema` itself: their YAML files are alternatives of one small record."""

GROUPS = (*METHOD_GROUPS, *SETTING_GROUPS, "study")
"""Whatever is chosen by name: a file in a folder of that name under configs/."""


def one(key: str, value: str, is_list: bool = False) -> None:
    """Refuse several values where one is taken."""
    if len(text.pieces(value, lists=True)) > 1:
        a_list = f" A list is {key}=[{value}]." if is_list else ""
        raise checks.UserError(
            f"{key}={value} lists several values, which is a sweep of runs: `fedveil sweep {key}=...` does it.{a_list}"
        )


def split(words: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Separate `group=name` words from dotted settings, whose values are read later, by the type of each.

    Both are in the order in which they count.

    Raises:
        fedveil.checks.UserError: a word without `=`, several values, or a method chosen in another way.

    >>> split(["train.rounds=3", "protection=none"])
    ({'protection': 'none'}, {'train.rounds': '3'})
    """
    groups: dict[str, str] = {}
    dotted: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise checks.UserError(f"Expected group=name or section.key=value, got {word!r}.")
        if key.partition(".")[0] == ATTACK:
            raise checks.UserError(f"{word} is of attacks on finished runs: `fedveil attack RUN_ID {word}`.")
        if key in GROUPS:
            one(key, value)
            groups = later(groups, {key: value})
        elif key.endswith(".name") and key[:-5] in GROUPS:
            raise checks.UserError(f"A method is chosen by its group: write {key[:-5]}={value} instead of {word}.")
        else:
            dotted = later(dotted, {key: value})
    return groups, dotted


def later(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parts' keys in the order in which their last values were said: a block and its fields may overlap.

    >>> later({"a.b": "1", "a": "none"}, {"a.b": "2"})
    {'a': 'none', 'a.b': '2'}
    """
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            found.pop(key, None)  # a dict keeps the place of a key's first value
            found[key] = value
    return found


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a nested tree, making the blocks on the way."""
    *path, last = key.split(".")
    for step in path:
        below = tree.get(step)
        if not isinstance(below, dict):
            below = tree[step] = {}
        tree = below
    tree[last] = value
