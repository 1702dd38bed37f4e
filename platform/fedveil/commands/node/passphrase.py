"""A passphrase from a prompt, a file or a descriptor; never from the command line, which every user can read."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from fedveil import checks

_SHORTEST = 12  # characters
_LONGEST = 1024  # bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the passphrase comes from; without either it is asked for."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line is the passphrase")
    one.add_argument("--passphrase-fd", type=int, metavar="N", help="an open descriptor, read to the end of its line")


def given(chosen: argparse.Namespace, new: bool) -> str:
    """Return the passphrase; a new one is asked for twice and has to be long enough.

    Raises:
        fedveil.checks.UserError: none, a short new one, two that differ, or a file that cannot be read.
    """
    if chosen.passphrase_file is not None or chosen.passphrase_fd is not None:
        found = _read(chosen.passphrase_fd if chosen.passphrase_file is None else chosen.passphrase_file)
    elif sys.stdin is None or not sys.stdin.isatty():
        raise checks.UserError(
            "There is no terminal to ask for a passphrase; name --passphrase-file FILE or --passphrase-fd N."
        )
    else:
        found = getpass.getpass("passphrase of the backup: ")
        if new and found != getpass.getpass("once more: "):
            raise checks.UserError("The two passphrases differ; nothing is written.")
    if not found:
        raise checks.UserError("The passphrase is empty.")
    if len(found.encode("utf-8", "surrogateescape")) > _LONGEST:  # a part of it would open the file from here alone
        raise checks.UserError(f"The passphrase is longer than {_LONGEST} bytes; take a shorter one.")
    if new and len(found) < _SHORTEST:
        raise checks.UserError(
            f"The passphrase has {len(found)} characters; take at least {_SHORTEST}, such as six words drawn by lot: "
            "whoever has the file can try as many as he likes."
        )
    return found


def _read(source: Path | int) -> str:
    try:
        handle = os.open(source, os.O_RDONLY) if isinstance(source, Path) else os.dup(source)
        with os.fdopen(handle, "rb") as stream:
            line = stream.readline(_LONGEST + 3)
    except OSError as error:
        raise checks.UserError(f"The passphrase cannot be read from {source}: {error.strerror or error}.") from error
    return line.decode("utf-8", "surrogateescape").rstrip("\r\n")
