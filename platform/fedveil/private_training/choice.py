"""Engines by name: one file is one engine, and the file's name is the engine's."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, cast

import fedveil.private_training
from fedveil import checks
from fedveil.private_training import base

_OTHERS = ("base", "choice", "classifier")


def names() -> list[str]:
    """Return the engines' names.

    >>> "loop" in names()
    True
    """
    found = (module.name for module in pkgutil.iter_modules(fedveil.private_training.__path__))
    return sorted(name for name in found if name not in _OTHERS and not name.startswith("_"))


def engine(name: str, **settings: Any) -> base.Engine:
    """Return the engine of this name; its settings are the fields of the class in its file.

    Raises:
        fedveil.checks.UserError: an unknown name, with the nearest one.
    """
    checks.one_of(names(), engine=name)
    kind = importlib.import_module(f"{fedveil.private_training.__name__}.{name}").METHOD
    return cast(base.Engine, kind(**settings))
