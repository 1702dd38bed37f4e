"""Configuration: one commented base.yaml, one short YAML per method, typed and frozen on arrival.

Three forms, in any order on the command line: `protection=dctdp` (a bare group: loads configs/protection/dctdp.yaml),
`train.rounds=20` (a dotted override on top), `study=quick` (configs/study/quick.yaml: a base plus a grid). Groups are
taken first. An unknown key or a wrong type is refused with the nearest name, and so is `key=a,b,c`: the values of a
sweep (see `commands.sweep.grid`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from fedveil import addresses, checks
from fedveil.configuration import files, plugins
from fedveil.configuration.schema import Config, Group, from_tree
from fedveil.configuration.words import METHOD_GROUPS, SETTING_GROUPS, put, split


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
    tree = files.load(files.folder() / "base.yaml")
    name = groups.pop("study", None)
    base, grid = files.study(name) if name is not None else ([], {})
    if grid:
        raise checks.UserError(f"study={name} is a grid of runs over {', '.join(grid)}: `fedveil sweep study={name}`.")
    study_groups, study_dotted = split(base)
    chosen = {**{group: tree[group]["name"] for group in (*METHOD_GROUPS, *SETTING_GROUPS)}, **study_groups, **groups}
    for group, method in chosen.items():
        tree[group] = {"name": method, **files.read(group, method)}
    fitting = {key: value for key, value in study_dotted.items() if files.applies(key, chosen)}
    for key, value in {**fitting, **dotted}.items():
        put(tree, key, value)
        _alternatives(tree, key)
    return parse(tree)


def parse(tree: Mapping[str, Any]) -> Config:
    """Return the typed configuration of a complete tree, e.g. one that crossed the wire as JSON, without secrets."""
    config: Config = from_tree(Config, addresses.without_secrets(tree), "")
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
                plain = value is None or isinstance(value, (str, int, float))
                yield f"{prefix}{key}", value if plain else files.text(value)

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
