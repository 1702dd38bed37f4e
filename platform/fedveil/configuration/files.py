"""The YAML files: base.yaml, one per method, one per study. This module alone imports OmegaConf and PyYAML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from fedveil import checks
from fedveil.configuration import plugins, text
from fedveil.configuration.words import METHOD_GROUPS


def folder() -> Path:
    """Return the folder of the YAML files: inside the installed package, or the checkout's configs/."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "configs"


def choices(group: str) -> list[str]:
    """Return the sorted names that a group's folder offers."""
    return sorted(path.stem for path in (folder() / group).glob("*.yaml"))


def path_of(group: str, name: str) -> Path:
    """Return the file of a group's choice; an unknown name is refused with the nearest."""
    if name not in choices(group):
        near = checks.nearest(name, choices(group))
        raise checks.UserError(f"Unknown {group}={name!r}; choose from {choices(group)}.{near}")
    return folder() / group / f"{name}.yaml"


def read(group: str, name: str) -> dict[str, Any]:
    """Return the settings of a group's choice; an unknown name is refused with the nearest."""
    return load(path_of(group, name))


def load(path: Path) -> dict[str, Any]:
    """Return a YAML file's tree, plain types."""
    tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else {}


def study(name: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return a study's base as command-line words, and its grid {key: values}; a study of one run has no grid.

    Its values are words that stand in a file: each is read by the type of its setting and by nothing else, so that 2024
    is a folder where a folder is wanted. A list of YAML is a list, and a block may stand for its dotted keys.

    Raises:
        fedveil.checks.UserError: no such study, or a file that is none; the message names it.
    """
    path = path_of("study", name)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise checks.UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    parts = dict(_fields(root, path)) if root is not None else {}
    for part in parts:
        if part not in ("base", "grid"):
            raise checks.UserError(f"{path}: unknown part {part}.{checks.nearest(part, ['base', 'grid'])}")
    base = dict(_words(parts["base"], path)) if "base" in parts else {}
    grid = {}
    for key, node in _fields(parts["grid"], path) if "grid" in parts else ():
        if not isinstance(node, yaml.SequenceNode):
            raise checks.UserError(f"{path}: grid.{key} is one value; write a list, or put it under base.")
        grid[key] = [_text(value, path) for value in node.value]
    for key in [*base, *grid]:
        _known(key, path)
    return [f"{key}={value}" for key, value in base.items()], grid


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
    if group in METHOD_GROUPS and setting and not any(applies(key, {group: name}) for name in plugins.names(group)):
        every = sorted({known for name in plugins.names(group) for known in read(group, name)})
        raise checks.UserError(f"{path}: unknown setting {key}.{checks.nearest(setting, every)}")


def applies(key: str, chosen: Mapping[str, str]) -> bool:
    """Return whether the methods `chosen` {group: name} have the setting `key`; other sections have theirs always."""
    group, _, setting = key.partition(".")
    return group not in METHOD_GROUPS or group not in chosen or setting in read(group, chosen[group])


def shown(value: Any) -> str:
    """Return a value as text for people and for trackers: JSON, but for words and infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str) else json.dumps(value)
