"""One file or folder is one command of `fedveil`, and its name is the command's.

A command's module has a docstring, whose first line is its help; `EXAMPLES`, the text below its `--help`;
`arguments(parser)`, which adds its arguments; and `run(chosen)`, which returns the exit status. One that reads a few
sections of the configuration alone names them in `READS`: words of others would do nothing and are refused. Adding a
command is adding a file.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast


class Command(Protocol):
    """What a module of this folder is."""

    EXAMPLES: str

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments; words such as `group=name` are called `words`."""

    def run(self, chosen: argparse.Namespace) -> int:
        """Do it; return the exit status. A user's mistake is a `UserError`."""
        ...


def names() -> list[str]:
    """Return the sorted names of all commands.

    >>> "simulate" in names()
    True
    """
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))


def help_of(name: str) -> str:
    """Return the first line of a command's docstring, without loading what the command needs."""
    path = Path(__path__[0]) / name
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def reads(command: Command) -> tuple[str, ...]:
    """Return the sections of the configuration that a command reads; empty where it reads a whole run's."""
    sections: tuple[str, ...] = getattr(command, "READS", ())
    return sections


def load(name: str) -> Command:
    """Return a command's module."""
    return cast(Command, importlib.import_module(f"{__name__}.{name}"))
