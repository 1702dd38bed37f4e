"""One file is one method: the folder listing is the registry, the file's name is the method's name.

A method's file holds one frozen dataclass whose fields are its settings (the schema of its YAML file) and whose
`__post_init__` validates them; the module's last line names it: `METHOD = DCTDP`. A configuration can only name a file
that exists in the package, which matters when configurations arrive over a network. This is the only dynamic import.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from fedveil import checks

GROUPS: Mapping[str, str] = {
    "protection": "fedveil.protections",
    "model": "fedveil.models.backbones",
    "head": "fedveil.models.heads",
    "data": "fedveil.data.sources",
    "aggregation": "fedveil_strategies.aggregation",
    "generator": "fedveil.generators",
    "attack": "fedveil.attacks",
}
"""Configuration group -> the package whose files are its methods. An attack is no part of a run's configuration."""


def names(group: str) -> list[str]:
    """Return the sorted names of a group's methods: its package's files, without base.py and private ones.

    >>> "arcface" in names("head")
    True
    """
    package = importlib.import_module(GROUPS[group])
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if name != "base" and not name.startswith("_"))


def acceptable() -> list[str]:
    """Return what an owner's floor may name: what a run's method is called (`schema.Config.method`).

    >>> "none" in acceptable(), "id3" in acceptable()
    (True, True)
    """
    return [*names("protection"), *(name for name in names("generator") if name != "none")]


def method(group: str, name: str) -> type[Any]:
    """Return the dataclass that the file `name` of a group declares; an unknown name is refused with the nearest."""
    known = names(group)
    if name not in known:
        raise checks.UserError(f"Unknown {group} {name!r}; choose from {known}.{checks.nearest(name, known)}")
    loaded: type[Any] = importlib.import_module(f"{GROUPS[group]}.{name}").METHOD
    return loaded


def summary(group: str, name: str) -> str:
    """Return the first line of the method's docstring: what `fedveil methods` prints."""
    return (method(group, name).__doc__ or "").strip().splitlines()[0]


def build(group: str, name: str, settings: Mapping[str, Any]) -> Any:
    """Return the method `name` of a group with these settings; an unknown setting is refused with the nearest name.

    >>> build("head", "arcface", {"scale": 32.0, "margn": 0.5})
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Unknown setting head.margn of 'arcface'. Did you mean 'margin'?
    """
    kind = method(group, name)
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in settings:
        if key not in fields:
            raise checks.UserError(f"Unknown setting {group}.{key} of {name!r}.{checks.nearest(key, fields)}")
    return kind(**settings)
