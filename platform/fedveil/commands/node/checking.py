"""Say what an owner's node would answer to a run.

It is asked before the coordinator asks; nothing leaves and nothing is written.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from fedveil import checks, console, engine
from fedveil.federation import instruction
from fedveil.federation.federation import Federation


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("file", type=Path, metavar="NODE.TOML", help="the words of a node's configuration")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="of the run, e.g. protection=dctdp")
    parser.add_argument("--config", type=Path, metavar="PATH", help="a bundle's folder, or a configuration as JSON")


def run(chosen: argparse.Namespace) -> int:
    """Have the owner's side check, and print what it found."""
    if chosen.config is not None and chosen.words:
        raise checks.UserError(f"Name a configuration by --config or by words, not both: {chosen.words[0]}.")
    if chosen.config is None:
        wire = instruction.to_wire(Federation.of(chosen.words).settings)
    else:
        wire = wire_of(chosen.config)
    words = engine.load("fedveil_clients.node:read")(chosen.file)
    found = engine.load("fedveil_clients.check:check")(words, instruction.from_wire(wire))
    console.tell(found.text)
    return 1 if found.refusal else 0


def wire_of(path: Path) -> str:
    """Return a configuration as a node would receive it, from a bundle's folder or a file of JSON.

    Raises:
        fedveil.checks.UserError: neither can be read.
    """
    file = path / "pyproject.toml" if path.is_dir() else path
    if file.exists() and not file.is_file():
        raise checks.UserError(f"--config {path} is no bundle and no configuration: {file} is no file.")
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".toml":
            text = str(tomllib.loads(text)["tool"]["flwr"]["app"]["config"]["config"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise checks.UserError(f"--config {path} is no bundle and no configuration: {error}") from error
    return text
