"""Start an owner's SuperNode, which answers with the app that is installed here and runs no code that arrives."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedveil import checks, engine
from fedveil.federation import instruction
from fedveil.storage import disk

_SUPERNODE, _STARTER = "flower-supernode", "flower-superexec"
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


def prepared(file: Path, options: list[str], environment: Mapping[str, str]) -> tuple[str, list[str], dict[str, str]]:
    """Return the program, its words and its environment; Flower's commands in it are ours.

    Raises:
        fedveil.checks.UserError: a file of words that cannot be read, an option that would let foreign code in, no
            Flower beside this Python, or a FLWR_HOME from which no program can be started.
    """
    engine.load("fedveil_clients.node:read")(file)
    for option in options:
        name = option.partition("=")[0]
        known = [one for one in _NOT_HERE if len(name) > 2 and one.startswith(name)]  # argparse takes beginnings
        if known:
            raise checks.UserError(f"{option} is not for an owner's node: {_NOT_HERE[known[0]]}. Leave it out.")
    path = [str(Path(sys.executable).parent), *environment.get("PATH", os.defpath).split(os.pathsep)]
    found = {name: shutil.which(name, path=os.pathsep.join(path)) for name in (_SUPERNODE, _STARTER)}
    for name, program in found.items():
        if program is None:
            raise checks.UserError(f"{name} is not there; install flwr into the environment of {sys.executable}.")
    from flwr.supercore.utils import get_flwr_home

    commands = get_flwr_home().absolute() / "fedveil"
    _write_commands(commands, os.path.abspath(str(found[_STARTER])))
    own = {
        instruction.NODE_FILE: str(file.absolute()),
        "PATH": os.pathsep.join([str(commands), *_without_flower(path)]),
    }
    return str(found[_SUPERNODE]), [str(found[_SUPERNODE]), *options], {**SETTINGS, **environment, **own}


def _without_flower(path: Sequence[str]) -> list[str]:
    """Return the folders that hold none of Flower's commands: a system that cannot start ours looks for the next one.

    Ours may be taken away while the node runs, or lie where nothing may be started.
    """
    return [place for place in path if place and not any(os.path.lexists(Path(place, name)) for name in _commands())]


def _commands() -> list[str]:
    """Return every command by which Flower could start what a coordinator sends."""
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    return list(TASK_TYPE_TO_COMMAND.values())


def _write_commands(folder: Path, starter: str) -> None:
    """Write a command of ours for each of Flower's, and one for Flower's own that starts them."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(folder, 0o700)  # whoever may write here chooses what runs
    ours = {name: [sys.executable, "-P", "-m", "fedveil_clients.task", name] for name in _commands()}
    for name, words in {**ours, _STARTER: [starter]}.items():
        file, text = folder / name, f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'.encode()
        if not file.is_file() or file.read_bytes() != text or not os.access(file, os.X_OK):
            disk.write_atomic(file, text, private=True)
            os.chmod(file, 0o700)
        if not os.access(file, os.X_OK):
            raise checks.UserError(
                f"{file} cannot be started, as on a file system that is mounted noexec: set FLWR_HOME to a folder from "
                "which this user may start programs."
            )
