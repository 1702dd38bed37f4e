"""Back an owner's vault up, restore it, and go on with one that is not known to be its newest state."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedveil import checks, console, engine
from fedveil.commands.node import passphrase

_KEY = (
    "It holds the owner's key, which takes the noise off every copy: keep file and passphrase apart, and both as you "
    "would keep the pictures."
)


def saving(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `backup`."""
    parser.add_argument("file", type=Path, metavar="NODE.TOML", help="the words of a node's configuration")
    parser.add_argument("out", type=Path, metavar="FILE", help="a new file")
    parser.add_argument("--copies", action="store_true", help="with the noisy copies, which the key would draw again")
    passphrase.arguments(parser)


def save(chosen: argparse.Namespace) -> int:
    """Write the vault to one sealed file."""
    vault, seen = vault_of(chosen.file)
    secret = passphrase.given(chosen, new=True)
    size = engine.load("fedveil_clients.backup:save")(vault, seen, chosen.out, secret, chosen.copies)
    console.tell(f"wrote {chosen.out} ({size:,} bytes). {_KEY}")
    return 0


def restoring(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `restore`."""
    parser.add_argument("source", type=Path, metavar="FILE", help="a backup")
    parser.add_argument("file", type=Path, metavar="NODE.TOML", help="the words of a node's configuration")
    _words_of_the_owner(parser, required=False)
    passphrase.arguments(parser)


def restore(chosen: argparse.Namespace) -> int:
    """Make the vault from a backup; an older state is refused, and nothing is left of the attempt."""
    vault, seen = vault_of(chosen.file)
    secret = passphrase.given(chosen, new=False)
    found = engine.load("fedveil_clients.adopting:restore")(
        chosen.source, vault, seen, secret, chosen.file, chosen.nothing_since, chosen.forgotten
    )
    console.tell(found)
    return 0


def adopting(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `adopt`."""
    parser.add_argument("file", type=Path, metavar="NODE.TOML", help="the words of a node's configuration")
    _words_of_the_owner(parser, required=True)


def adopt(chosen: argparse.Namespace) -> int:
    """Make the vault that is there the newest again."""
    vault, seen = vault_of(chosen.file)
    console.tell(engine.load("fedveil_clients.adopting:adopt")(vault, seen, chosen.forgotten))
    return 0


def _words_of_the_owner(parser: argparse.ArgumentParser, required: bool) -> None:
    one = parser.add_mutually_exclusive_group(required=required)
    one.add_argument("--nothing-since", action="store_true", help="your word that nothing has left since this state")
    one.add_argument("--forgotten", action="store_true", help="book that what left since is unknown: infinite totals")


def vault_of(file: Path) -> tuple[Any, Any]:
    """Return the vault that a file of words names, and its witness."""
    words = engine.load("fedveil_clients.node:read")(file)
    if "vault-root" not in words:
        raise checks.UserError(f"{file} names no vault: set vault-root=FOLDER in it.")
    node = engine.load("fedveil_clients.node:node_of")("", words, "")
    vault = engine.load("fedveil_clients.vault:Vault")(node.vault())
    return vault, engine.load("fedveil_clients.witness:of_node")(node)
