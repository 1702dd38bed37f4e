"""What of a configuration says where something is on a machine: derived from the marks of the schema, nowhere listed.

A configuration that other machines see has none of it, and what a machine sees of another's is not read (`emptied`).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from fedveil.configuration import plugins, typed
from fedveil.configuration.marks import HERE, Place
from fedveil.configuration.schema import Config, Group


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting that names a place.

    Attributes:
        block: dotted path of the block that it is in.
        name: of the setting in the block.
        mark: how it is marked.
        optional: whether it may be absent; else a text has to be there.
    """

    block: str
    name: str
    mark: Place
    optional: bool

    @property
    def key(self) -> str:
        """The dotted key."""
        return f"{self.block}.{self.name}"

    def read(self, tree: Mapping[str, Any]) -> Any:
        """Return its value in a configuration's tree; None where it has none."""
        return (_block(tree, self.block) or {}).get(self.name)


@functools.cache
def sections() -> tuple[str, ...]:
    """Return the sections and settings at the top that say where a run is computed or kept.

    >>> sections()
    ('engine', 'tracking', 'vault', 'runs', 'device', 'device_batch')
    """
    return tuple(name for name, kind in typed.hints(Config).items() if HERE in _marks(kind))


def settings(chosen: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Return the places outside `sections`.

    Args:
        chosen: group -> the name of its method, whose settings are looked through; a group that is absent is not.

    Raises:
        fedveil.checks.UserError: a method that there is not.

    >>> [found.key for found in settings({"data": "folder"})]
    ['data.root', 'train.warm_start', 'train.synthetic', 'evaluation.pairs']
    """
    return tuple(_walk(Config, "", chosen))


def _walk(kind: Any, path: str, chosen: Mapping[str, Any]) -> Iterator[Setting]:
    for name, inner in typed.hints(kind).items():
        key = f"{path}.{name}" if path else name
        if inner is Group:
            if name in chosen:
                yield from _walk(plugins.method(name, chosen[name]), key, {})
            continue
        marks = _marks(inner)
        if HERE in marks:
            continue
        options = [typed.marks(option)[0] for option in typed.options(inner)]
        yield from (Setting(path, name, mark, typed.NOTHING in options) for mark in marks if isinstance(mark, Place))
        for block in options:
            if dataclasses.is_dataclass(block):
                yield from _walk(block, key, {})


def _marks(kind: Any) -> list[Any]:
    return [mark for option in typed.options(kind) for mark in typed.marks(option)[1]]


def of_source(data: str) -> str | None:
    """Return which setting of a data source says where its faces are; None for a source that draws them.

    >>> of_source("folder"), of_source("packed"), of_source("procedural")
    ('root', 'path', None)
    """
    found = _walk(plugins.method("data", data), "data", {})
    return next((setting.name for setting in found if not setting.optional), None)


def emptied(tree: Mapping[str, Any], nowhere: str | None = None) -> dict[str, Any]:
    """Return a copy of a configuration's tree without any place of a machine; words that are no place stay.

    Whatever the tree is: one that arrived may hold anything. What is no block is left for its reader to refuse.

    Args:
        tree: plain JSON types.
        nowhere: stands where a place has to be; None leaves such a setting out.

    Raises:
        fedveil.checks.UserError: a method that there is not.
    """
    found = {key: copy.deepcopy(value) for key, value in tree.items() if key not in sections()}
    for setting in settings(_chosen(found)):
        block = _block(found, setting.block)
        if block is None:
            continue
        if not setting.optional:
            block.pop(setting.name, None)
            if nowhere is not None:
                block[setting.name] = nowhere
        elif block.get(setting.name) not in setting.mark.words:
            left = {setting.name: None, **dict.fromkeys(setting.mark.beside, False)}
            block |= {name: value for name, value in left.items() if name in block}
    return found


def filled(tree: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a complete tree with the places of another one, whose empty ones leave what is no place."""
    found = copy.deepcopy(dict(tree))
    for setting in settings(_chosen(found)):
        block, said = _block(found, setting.block), _block(own, setting.block)
        if block is None or said is None:
            continue
        if said[setting.name] is not None:
            block[setting.name] = said[setting.name]
        block |= {name: said[name] for name in setting.mark.beside}
    return found


def _chosen(tree: Mapping[str, Any]) -> dict[str, Any]:
    groups = {name: block.get("name") for name, block in tree.items() if isinstance(block, Mapping)}
    return {name: method for name, method in groups.items() if name in plugins.GROUPS and method is not None}


def _block(tree: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """Return the block at a dotted path; None where there is none."""
    found: Any = tree
    for step in path.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else None
