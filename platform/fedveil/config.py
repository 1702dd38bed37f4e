"""Configuration: one commented base.yaml, one short YAML per method, typed and frozen on arrival.

Three forms, in any order on the command line: `protection=dctdp` (a bare group: loads configs/protection/dctdp.yaml),
`train.rounds=20` (a dotted override on top), `study=quick` (configs/study/quick.yaml: a base plus a grid). Groups are
taken first. An unknown key or a wrong type is refused with the nearest name, and so is `key=a,b,c`: the values of a
sweep (see `grid`). This module alone imports OmegaConf.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from fedveil import checks, plugins
from fedveil.schema import Config, Group, from_tree

METHOD_GROUPS = tuple(plugins.GROUPS)
SETTING_GROUPS = ("engine", "tracking")
"""Groups whose settings are typed by `schema` itself: their YAML files are alternatives of one small record."""


def folder() -> Path:
    """Return the folder of the YAML files: inside the installed package, or the checkout's configs/."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def choices(group: str) -> list[str]:
    """Return the sorted names that a group's folder offers."""
    return sorted(path.stem for path in (folder() / group).glob("*.yaml"))


def _read(group: str, name: str) -> dict[str, Any]:
    if name not in choices(group):
        near = checks.nearest(name, choices(group))
        raise checks.UserError(f"Unknown {group}={name!r}; choose from {choices(group)}.{near}")
    return _yaml(folder() / group / f"{name}.yaml")


def _yaml(path: Path) -> dict[str, Any]:
    tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else {}


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


def _alternatives(tree: dict[str, Any], key: str) -> None:
    """`train.local` is steps or epochs: naming one drops the base's other."""
    pair = {"train.local.steps": "epochs", "train.local.epochs": "steps"}
    if key in pair:
        tree["train"]["local"].pop(pair[key], None)


def load(words: Iterable[str] = ()) -> Config:
    """Return the resolved configuration for command-line `words`.

    Raises:
        fedveil.checks.UserError: for an unknown group, key or value; the message names it, its value and the nearest.

    >>> load(["train.rounds=3", "protection=none"]).train.rounds
    3
    >>> load(["train.ronds=3"])
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Unknown setting train.ronds. Did you mean 'rounds'?
    """
    groups, dotted = split(words)
    tree = _yaml(folder() / "base.yaml")
    name = groups.pop("study", None)
    base, grid = study(name) if name is not None else ([], {})
    if grid:
        raise checks.UserError(f"study={name} is a grid of runs over {', '.join(grid)}: `fedveil sweep study={name}`.")
    study_groups, study_dotted = split(base)
    chosen = {**{group: tree[group]["name"] for group in (*METHOD_GROUPS, *SETTING_GROUPS)}, **study_groups, **groups}
    for group, method in chosen.items():
        tree[group] = {"name": method, **_read(group, method)}
    fitting = {key: value for key, value in study_dotted.items() if applies(key, chosen)}
    for key, value in {**fitting, **dotted}.items():
        put(tree, key, value)
        _alternatives(tree, key)
    return parse(tree)


def study(name: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return a study's base as command-line words, and its grid {key: values}; a study of one run has no grid."""
    tree = _read("study", name)
    base = [f"{key}={_text(value)}" for key, value in (tree.get("base") or {}).items()]
    return base, {str(key): [_text(value) for value in values] for key, values in (tree.get("grid") or {}).items()}


def applies(key: str, chosen: Mapping[str, str]) -> bool:
    """Return whether the methods `chosen` {group: name} have the setting `key`; other sections have theirs always."""
    group, _, setting = key.partition(".")
    return group not in METHOD_GROUPS or group not in chosen or setting in _read(group, chosen[group])


def _text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str) else json.dumps(value)


def parse(tree: Mapping[str, Any]) -> Config:
    """Return the typed configuration of a complete tree, e.g. one that crossed the wire as JSON."""
    config: Config = from_tree(Config, dict(tree), "")
    for group in METHOD_GROUPS:
        build(config, group)
    return config


def build(config: Config, group: str) -> Any:
    """Return the method that a group of the configuration names, built from its settings."""
    chosen: Group = getattr(config, group)
    kind = plugins.method(group, chosen.name)
    typed = from_tree(kind, dict(chosen.settings), group)
    return plugins.build(group, chosen.name, {f.name: getattr(typed, f.name) for f in dataclasses.fields(kind)})


def to_tree(config: Config) -> dict[str, Any]:
    """Return plain JSON types; `parse` is the inverse."""
    tree = dataclasses.asdict(config)
    for group in METHOD_GROUPS:
        tree[group] = {"name": tree[group]["name"], **tree[group]["settings"]}
    plain: dict[str, Any] = json.loads(json.dumps(_words(tree), allow_nan=False))
    return plain


def _words(value: Any) -> Any:
    """Return a tree in which infinities are the word `inf`: JSON has no number for them."""
    if isinstance(value, dict):
        return {key: _words(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_words(item) for item in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def to_json(config: Config) -> str:
    """Return the configuration as one line of JSON: the form in which it crosses the wire."""
    return json.dumps(to_tree(config), sort_keys=True)


def from_json(text: str) -> Config:
    """Return the configuration that `to_json` wrote."""
    return parse(json.loads(text))


def flat(config: Config) -> dict[str, Any]:
    """Return {dotted key: scalar or JSON text}: what MLflow shows as parameters."""

    def walk(tree: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value if value is None or isinstance(value, (str, int, float)) else _text(value)

    return dict(walk(to_tree(config), ""))


def digest(config: Config) -> str:
    """Return a SHA-256 over everything that can change a result: all but engine, tracking, run store and vault."""
    tree = to_tree(config)
    for section in ("engine", "tracking", "runs", "vault"):
        tree.pop(section)
    return hashed(tree)


def hashed(tree: Any) -> str:
    """Return a SHA-256 over the canonical JSON of plain types."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
