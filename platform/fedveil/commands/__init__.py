"""One file or folder is one command of `fedveil`, and its name is the command's.

A command's module has a docstring, whose first line is its help; `EXAMPLES`, the text below its `--help`;
`arguments(parser)`, which adds its arguments; and `run(chosen)`, which returns the exit status (`chosen.began` is when
the command began, `time.perf_counter`). One that reads a few
sections of the configuration alone names them in `READS`: words of others would do nothing and are refused. One that
tells MLflow of runs says `TRACKS = True`, so that MLflow starts beside all that the command imports. Adding a command
is adding a file.
"""

from __future__ import annotations

import argparse
import ast
import functools
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
    text = ast.get_docstring(_parsed(name)) or ""
    return text.partition("\n")[0].rstrip(".")


def tracks(name: str) -> bool:
    """Return whether a command tells MLflow of runs, without loading what the command needs.

    >>> tracks("simulate"), tracks("methods")
    (True, False)
    """
    assigned = [node for node in _parsed(name).body if isinstance(node, ast.Assign)]
    return any(ast.unparse(node) == "TRACKS = True" for node in assigned)


@functools.cache
def _parsed(name: str) -> ast.Module:
    path = Path(__path__[0]) / name
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text(encoding="utf-8"))


def reads(command: Command) -> tuple[str, ...]:
    """Return the sections of the configuration that a command reads; empty where it reads a whole run's."""
    sections: tuple[str, ...] = getattr(command, "READS", ())
    return sections


def load(name: str) -> Command:
    """Return a command's module."""
    return cast(Command, importlib.import_module(f"{__name__}.{name}"))
