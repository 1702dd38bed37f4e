"""Every setting by its dotted key: its type, and what was meant where there is none of that name."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from fedveil import checks
from fedveil.configuration import files, plugins, typed
from fedveil.configuration.schema import Config, Group
from fedveil.configuration.words import GROUPS, METHOD_GROUPS


def kind(key: str, chosen: Mapping[str, str]) -> Any:
    """Return the type of a setting.

    Args:
        key: dotted, e.g. `train.rounds`.
        chosen: group -> the name of its method, whose dataclass has the group's settings.

    Raises:
        fedveil.checks.UserError: no such setting; the message names the nearest, or all there are.

    >>> kind("train.rounds", {}), kind("protection.mode", {"protection": "dctdp"})
    (<class 'int'>, typing.Literal['image', 'coefficient'])
    >>> kind("rounds", {})
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Unknown setting rounds. Did you mean 'train.rounds'?
    """
    group, _, setting = key.partition(".")
    if group in METHOD_GROUPS:
        method = chosen[group]
        known = typed.hints(plugins.method(group, method))
        if setting not in known:
            raise checks.UserError(f"Unknown setting {key}.{_nearest_of_method(group, method, setting, known)}")
        return known[setting]
    found: Any = Config
    done: list[str] = []
    for step in key.split("."):
        fields = _fields(found)
        if step not in fields:
            raise checks.UserError(f"Unknown setting {'.'.join([*done, step])}.{_nearest(key, done, step, fields)}")
        found = fields[step]
        done.append(step)
    return found


def _fields(kind: Any) -> Mapping[str, Any]:
    """Return the fields of a block, optional or not; of anything else none."""
    block = _block(kind)
    return typed.hints(block) if block is not None else {}


def _block(kind: Any) -> Any | None:
    """Return the dataclass that a type is, or may be, whatever it is marked with; None for any other type."""
    bare = (typed.marks(option)[0] for option in typed.options(kind))
    return next((option for option in bare if dataclasses.is_dataclass(option)), None)


def _nearest(key: str, done: list[str], step: str, fields: Mapping[str, Any]) -> str:
    """Return a sentence that offers the nearest field of this block, or the setting of that name elsewhere."""
    if not fields:
        return f" {'.'.join(done)} is one value."
    near = checks.nearest(step, fields)
    if near and "." in key:
        return near
    same = [known for known in every() if known.rpartition(".")[2] == key.rpartition(".")[2]]
    same = [known for known in same if done and known.startswith(f"{done[0]}.")] or same
    if same:
        return ("" if done else checks.nearest(key, same)) or f" Did you mean {same[0]!r}?"
    return near or f" Choose from {', '.join(fields)}."


def _nearest_of_method(group: str, method: str, setting: str, known: Mapping[str, Any]) -> str:
    """Return a sentence that offers the method's nearest setting, or the methods that have this one."""
    others = {name: typed.hints(plugins.method(group, name)) for name in plugins.names(group)}
    every_key = dict.fromkeys(key for fields in others.values() for key in fields)
    owners = {key: [f"{group}={name}" for name in others if key in others[name]] for key in every_key}
    if reason := checks.left_out(setting):
        return reason
    if setting in owners:
        return f" {group}={method} has none such: it is one of {' and '.join(owners[setting])}."
    near = difflib.get_close_matches(setting, [*known, *owners], n=1, cutoff=0.5)
    if not near:
        return f" {group}={method} has {', '.join(known) or 'no settings'}."
    return f" Did you mean {near[0]!r}{'' if near[0] in known else f' of {owners[near[0]][0]}'}?"


def takes_lists(key: str) -> bool:
    """Return whether a value of the setting is a list; of a method's setting, in any method that has it.

    >>> takes_lists("evaluation.far"), takes_lists("data.root"), takes_lists("no.such")
    (True, False, False)
    """
    group = key.partition(".")[0]
    for name in plugins.names(group) if group in METHOD_GROUPS else [""]:
        try:
            found = kind(key, {group: name})
        except checks.UserError:
            continue
        if is_list(found):
            return True
    return False


def is_list(kind: Any) -> bool:
    """Return whether a value of the type is a list, optional or not."""
    return any(typing.get_origin(option) is tuple for option in typed.options(kind))


@functools.cache
def every() -> tuple[str, ...]:
    """Return the dotted keys of all settings, those of all methods included, sorted."""

    def walk(kind: Any, prefix: str) -> Iterator[str]:
        for name, inner in typed.hints(kind).items():
            key = f"{prefix}{name}"
            if inner is Group:
                methods = [plugins.method(key, each) for each in plugins.names(key)]
                yield from (f"{key}.{setting}" for method in methods for setting in typed.hints(method))
            elif _fields(inner):
                yield from walk(_block(inner), f"{key}.")
            elif not (prefix.rstrip(".") in GROUPS and name == "name"):
                yield key

    return tuple(sorted(set(walk(Config, ""))))


@functools.cache
def forms() -> dict[str, str]:
    """Return {bare name: the word that it may stand for}: settings by their last name and in full, groups, choices.

    A form that ends with `=` wants a value. Of equal names a setting comes before a choice, the first before others.

    >>> [forms()[name] for name in ("rounds", "train.lr", "protection", "quick")]
    ['train.rounds=', 'train.lr=', 'protection=', 'study=quick']
    """
    choices = {name: f"{group}={name}" for group in reversed(GROUPS) for name in files.choices(group)}
    lasts = {key.rpartition(".")[2]: f"{key}=" for key in reversed(every())}
    return {**choices, **lasts, **{key: f"{key}=" for key in every()}, **{group: f"{group}=" for group in GROUPS}}
