"""The YAML files: base.yaml and one per method (`studies` reads the studies). This module alone imports OmegaConf."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedveil import checks
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


def applies(key: str, chosen: Mapping[str, str]) -> bool:
    """Return whether the methods `chosen` {group: name} have the setting `key`; other sections have theirs always."""
    group, _, setting = key.partition(".")
    return group not in METHOD_GROUPS or group not in chosen or setting in read(group, chosen[group])


def shown(value: Any) -> str:
    """Return a value as text for people and for trackers: JSON, but for words and infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str) else json.dumps(value)
