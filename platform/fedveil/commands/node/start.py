"""Start an owner's SuperNode, which answers with the app that is installed here and runs no code that arrives."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from fedveil import checks, engine
from fedveil.federation import instruction
from fedveil.storage import disk

_SUPERNODE = "flower-supernode"
_NOT_HERE = {
    "--isolation": "processes that others start would run what the coordinator sends",
    "--allow-runtime-dependency-installation": "what a bundle asks for would be installed",
}
SETTINGS: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "OMP_NUM_THREADS": "1",
}
"""What the environment says unless it says something else: nothing calls home, and equal runs have equal bits."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("file", type=Path, metavar="NODE.TOML", help="the words of a node's configuration")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="OPTION", help=f"of {_SUPERNODE}, e.g. --superlink HOST:PORT"
    )


def run(chosen: argparse.Namespace) -> int:
    """Become the SuperNode: it keeps this process, and ends with it."""
    program, words, environment = prepared(chosen.file, chosen.options, os.environ)
    os.execve(program, words, environment)


def prepared(
    file: Path, options: list[str], environment: Mapping[str, str]
) -> tuple[str, list[str], dict[str, str]]:
    """Return the program, its words and its environment; Flower's commands in it are ours.

    Raises:
        fedveil.checks.UserError: a file of words that cannot be read, an option that would let foreign code in, or no
            Flower beside this Python.
    """
    engine.load("fedveil_clients.node:read")(file)
    for option in options:
        name = option.partition("=")[0]
        known = [one for one in _NOT_HERE if len(name) > 4 and one.startswith(name)]  # argparse takes beginnings
        if known:
            raise checks.UserError(f"{option} is not for an owner's node: {_NOT_HERE[known[0]]}. Leave it out.")
    beside = Path(sys.executable).parent
    path = os.pathsep.join([str(beside), environment.get("PATH", os.defpath)])
    program = shutil.which(_SUPERNODE, path=path)
    if program is None:
        raise checks.UserError(f"{_SUPERNODE} is not there; install flwr into the environment of {sys.executable}.")
    from flwr.supercore.utils import get_flwr_home

    commands = get_flwr_home() / "fedveil"
    _write_commands(commands.absolute())
    own = {instruction.NODE_FILE: str(file.absolute()), "PATH": os.pathsep.join([str(commands.absolute()), path])}
    return program, [program, *options], {**SETTINGS, **environment, **own}


def _write_commands(folder: Path) -> None:
    """Write a command of ours for each that Flower could start, the first of them on the path."""
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for command in TASK_TYPE_TO_COMMAND.values():
        words = shlex.join([sys.executable, "-P", "-m", "fedveil_clients.task", command])
        file, text = folder / command, f'#!/bin/sh\nexec {words} "$@"\n'.encode()
        if not file.is_file() or file.read_bytes() != text or not os.access(file, os.X_OK):
            disk.write_atomic(file, text, private=True)
            os.chmod(file, 0o700)
