"""Configuration: one commented base.yaml, one short YAML per method, typed and frozen on arrival.

Three forms, in any order on the command line: `protection=dctdp` (a bare group: loads configs/protection/dctdp.yaml),
`train.rounds=20` (a dotted override on top), `study=quick` (configs/study/quick.yaml: a base, grids over it, attacks).
Groups are taken first. A value is read by the type of its setting (see `configuration.text`). An unknown key or a wrong
type is refused with the nearest name, a setting that would do nothing with what makes it do something, and `key=a,b,c`
with the command for it: these are the values of a sweep (see `commands.sweep.grid`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from fedveil import checks
from fedveil.configuration import files, idle, places, plugins, settings, studies, text, typed
from fedveil.configuration.schema import Config, Group
from fedveil.configuration.words import GROUPS, METHOD_GROUPS, later, one, put, split
from fedveil.storage import addresses

_LARGEST = 10**9  # of any whole number but a seed


def load(words: Iterable[str] = (), on: Config | None = None) -> Config:
    """Return the resolved configuration for command-line `words`.

    Args:
        words: in any order; of two for one key the later counts.
        on: what the words change; None: configs/base.yaml. Words that name a study stand for a whole configuration.

    Raises:
        fedveil.checks.UserError: for an unknown group, key or value, which the message names with the nearest; and for
            a word whose setting is not read beside the others.

    >>> load(["train.rounds=3", "protection=none"]).train.rounds
    3
    >>> load(["train.ronds=3"])
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Unknown setting train.ronds. Did you mean 'rounds'?
    """
    words = list(words)
    loaded = compose(words, on)
    idle.refuse(split(words)[1], loaded)
    return loaded


def compose(words: Iterable[str] = (), on: Config | None = None) -> Config:
    """Return what `load` does, settings that are not read included: for words that do not stand by themselves."""
    groups, dotted = split(words)
    name = groups.pop("study", None)
    tree, chosen = _start(None if name is not None else on)
    study = studies.read(name) if name is not None else studies.Study()
    if study.swept:
        over = ", ".join(study.swept)
        raise checks.UserError(f"study={name} is a grid of runs over {over}: `fedveil sweep study={name}`.")
    study_groups, study_dotted = split(f"{key}={value}" for key, value in study.base.items())
    for group, method in {**study_groups, **groups}.items():
        if chosen[group] != method or on is None:
            tree[group] = {"name": method, **files.read(group, method)}
            chosen[group] = method
    fitting = {key: value for key, value in study_dotted.items() if files.applies(key, chosen)}
    for key, value in later(fitting, dotted).items():
        put(tree, key, _read(key, value, chosen))
        _alternatives(tree, key)
    return parse(tree)


def _start(on: Config | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tree that words change, and {group: the name of its choice}."""
    groups = [group for group in GROUPS if group != "study"]
    if on is not None:
        tree = to_tree(on)
        return tree, {group: tree[group]["name"] for group in groups}
    tree = files.load(files.folder() / "base.yaml")
    chosen = {group: str(tree[group]["name"]) for group in groups}
    return {**tree, **{group: {"name": name, **files.read(group, name)} for group, name in chosen.items()}}, chosen


def _read(key: str, value: str, chosen: Mapping[str, str]) -> Any:
    """Read a value by the type of its setting; several values are a sweep's, unless they are one word."""
    kind = settings.kind(key, chosen)
    is_list = settings.is_list(kind)
    if is_list:
        one(key, value, is_list)
    try:
        return text.read(kind, value, key)
    except checks.UserError:
        if not value.strip().startswith("{"):
            one(key, value, is_list)
        raise


def _alternatives(tree: dict[str, Any], key: str) -> None:
    """`train.local` is steps or epochs: naming one drops the base's other."""
    pair = {"train.local.steps": "epochs", "train.local.epochs": "steps"}
    if key in pair:
        tree["train"]["local"].pop(pair[key], None)


def parse(tree: Any) -> Config:
    """Return the typed configuration of a complete tree, e.g. one that crossed the wire as JSON.

    Raises:
        fedveil.checks.UserError: naming what is missing, unknown or of another type.
    """
    _plausible(tree, "")
    config: Config = typed.block(Config, _without_secrets(tree), "")
    chosen: dict[str, Group] = {group: getattr(config, group) for group in METHOD_GROUPS}
    built = {group: build(config, group) for group in METHOD_GROUPS}
    exact: dict[str, Any] = {
        group: Group(named.name, {key: getattr(built[group], key) for key in named.settings})
        for group, named in chosen.items()
    }
    return dataclasses.replace(config, **exact)


def _plausible(value: Any, path: str) -> None:
    """Refuse numbers of a size with which no setting can be meant: arithmetic on them fails late.

    Seeds are any 63 bits; a method or a block has narrower ranges of its own.
    """
    listed = enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in value.items() if isinstance(value, Mapping) else listed:
        _plausible(item, f"{path}.{key}" if path else str(key))
    if type(value) is float and value != 0 and math.isfinite(value) and not 1e-30 <= abs(value) <= 1e30:
        raise checks.UserError(f"Expected {path}={value!r} of a plausible size, 1e-30 to 1e30.")
    if type(value) is int and abs(value) > _LARGEST and not path.endswith("seed"):
        raise checks.UserError(f"Expected {path}={value!r} of a plausible size, at most {_LARGEST:,}.")


def _without_secrets(tree: Any) -> Any:
    """Return a tree whose addresses hold no secret; what should be the store's address need not look like one."""
    shown = addresses.without_secrets(tree)
    tracking = shown.get("tracking") if isinstance(shown, dict) else None
    if isinstance(tracking, dict) and isinstance(tracking.get("uri"), str):
        shown["tracking"] = {**tracking, "uri": addresses.store(tracking["uri"])}
    return shown


def build(config: Config, group: str) -> Any:
    """Return the method that a group of the configuration names, built from its settings."""
    chosen: Group = getattr(config, group)
    kind = plugins.method(group, chosen.name)
    known = typed.hints(kind)
    # Earlier versions wrote a method's settings as YAML read them: 1e2 for a whole number stands there as 100.0.
    whole = {key for key, value in chosen.settings.items() if isinstance(value, float) and value.is_integer()}
    whole &= {key for key, hint in known.items() if int in typed.options(hint)}
    return typed.block(kind, {key: int(v) if key in whole else v for key, v in chosen.settings.items()}, group)


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


def from_json(written: str) -> Config:
    """Return the configuration that `to_json` wrote.

    Raises:
        fedveil.checks.UserError: the text is no JSON, or no configuration.
    """
    try:
        tree = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise checks.UserError(f"The configuration is no JSON: {error}.") from error
    return parse(tree)


def flat(config: Config) -> dict[str, Any]:
    """Return {dotted key: scalar or JSON text}: what MLflow shows as parameters."""

    def walk(tree: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                plain = value is None or isinstance(value, (str, int, float))
                yield f"{prefix}{key}", value if plain else files.shown(value)

    return dict(walk(to_tree(config), ""))


def digest(config: Config) -> str:
    """Return a SHA-256 over everything that a run computes: all but where it runs and is kept.

    A device is where: it changes the rounding, as another processor does, and result.json says which it was.
    """
    tree = to_tree(config)
    for section in places.sections():
        tree.pop(section)
    return hashed(tree)


def hashed(tree: Any) -> str:
    """Return a SHA-256 over the canonical JSON of plain types."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
