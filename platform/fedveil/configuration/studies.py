"""Studies, configs/study/*.yaml: a base, a grid over it, a union of blocks with grids of their own, and attacks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from fedveil import checks
from fedveil.configuration import files, plugins, text
from fedveil.configuration.words import ATTACK, METHOD_GROUPS

_PARTS = ("base", "grid", "blocks", "attacks")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}")


@dataclasses.dataclass(frozen=True)
class Block:
    """Words on top of a study's own: `base` key -> text, `grid` key -> texts."""

    base: Mapping[str, str] = dataclasses.field(default_factory=dict)
    grid: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study(Block):
    """What a study's file says.

    Attributes:
        base: what all runs have in common.
        grid: swept keys with their values, of every block.
        blocks: further words by the block's name; the study is the union of their grids. Without blocks, {}.
        attacks: what is run on every finished run: attack -> setting -> text.
    """

    blocks: Mapping[str, Block] = dataclasses.field(default_factory=dict)
    attacks: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def swept(self) -> list[str]:
        """The keys and blocks that make several runs of it; a study of one run has none."""
        return [*self.grid, *self.blocks]


def read(name: str) -> Study:
    """Return a study.

    Its values are words that stand in a file: each is read by the type of its setting and by nothing else, so that 2024
    is a folder where a folder is wanted. A list of YAML is a list, and a mapping may stand for its dotted keys.

    Raises:
        fedveil.checks.UserError: no such study, or a file that is none; the message names it.
    """
    path = files.path_of("study", name)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise checks.UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    parts = dict(_fields(root, path)) if root is not None else {}
    _of_these(parts, _PARTS, path, "part ")
    common = _block(parts, path, "")
    blocks = {}
    for block, node in _fields(parts["blocks"], path) if "blocks" in parts else ():
        if not _NAME.fullmatch(block):
            raise checks.UserError(f"{path}: expected a block's name of letters, digits, - and _, got {block!r}.")
        inner = dict(_fields(node, path))
        _of_these(inner, _PARTS[:2], path, f"part blocks.{block}.")
        blocks[block] = _block(inner, path, f"blocks.{block}.")
    attacks = _attacks(parts["attacks"], path) if "attacks" in parts else {}
    return Study(common.base, common.grid, blocks, attacks)


def _block(parts: Mapping[str, yaml.Node], path: Path, prefix: str) -> Block:
    base = dict(_words(parts["base"], path)) if "base" in parts else {}
    grid = {}
    for key, node in _fields(parts["grid"], path) if "grid" in parts else ():
        if not isinstance(node, yaml.SequenceNode):
            raise checks.UserError(f"{path}: {prefix}grid.{key} is one value; write a list, or put it under base.")
        if not node.value:
            raise checks.UserError(f"{path}: {prefix}grid.{key} has no value; list some, or leave it out.")
        grid[key] = [_text(value, path) for value in node.value]
    for key in [*base, *grid]:
        _known(key, path)
    return Block(base, grid)


def _attacks(node: yaml.Node, path: Path) -> dict[str, dict[str, str]]:
    """Return {attack: {setting: text}}: a list names attacks, a mapping their settings, too."""
    if isinstance(node, yaml.SequenceNode):
        found: dict[str, dict[str, str]] = {_text(name, path): {} for name in node.value}
    else:
        found = {name: _settings(inner, path) for name, inner in _fields(node, path)}
    known = plugins.names(ATTACK)
    for name, said in found.items():
        if name not in known:
            near = checks.nearest(name, known)
            raise checks.UserError(f"{path}: unknown attack {name!r}; choose from {known}.{near}")
        every = files.read(ATTACK, name)
        for setting in said:
            if setting not in every:
                near = checks.nearest(setting, every)
                raise checks.UserError(f"{path}: unknown setting attacks.{name}.{setting}.{near}")
    return found


def _settings(node: yaml.Node, path: Path) -> dict[str, str]:
    """Return an attack's settings; nothing behind its colon is none of them."""
    if isinstance(node, yaml.ScalarNode) and node.value == "":
        return {}
    return dict(_words(node, path))


def _of_these(parts: Mapping[str, object], known: tuple[str, ...], path: Path, said: str) -> None:
    for part in parts:
        if part not in known:
            raise checks.UserError(f"{path}: unknown {said}{part}.{checks.nearest(part, [*known])}")


def _fields(node: yaml.Node, path: Path) -> Iterator[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise checks.UserError(f"{path}, line {node.start_mark.line + 1}: expected `key: value` lines.")
    seen = set()
    for name, value in node.value:
        if str(name.value) in seen:
            raise checks.UserError(f"{path}, line {name.start_mark.line + 1}: {name.value} stands there twice.")
        seen.add(str(name.value))
        yield str(name.value), value


def _words(node: yaml.Node, path: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in _fields(node, path):
        if isinstance(value, yaml.MappingNode):
            yield from _words(value, path, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value, path)


def _text(node: yaml.Node, path: Path) -> str:
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return text.spoken([str(item.value) for item in node.value])
    if not isinstance(node, yaml.ScalarNode):
        raise checks.UserError(f"{path}, line {node.start_mark.line + 1}: expected a value or a list of values.")
    return str(node.value)


def _known(key: str, path: Path) -> None:
    """Refuse a setting of a study that no method of its group has: what one of them lacks is left out for it alone."""
    group, _, setting = key.partition(".")
    if group in METHOD_GROUPS and setting and not any(files.applies(key, {group: n}) for n in plugins.names(group)):
        every = sorted({known for name in plugins.names(group) for known in files.read(group, name)})
        raise checks.UserError(f"{path}: unknown setting {key}.{checks.nearest(setting, every)}")
