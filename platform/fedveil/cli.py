"""The command line: the commands of `fedveil.commands`, and one message where something goes wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import fedveil
from fedveil import addresses, checks, commands, disk
from fedveil.configuration import words

_FORMS = """
words:
  protection=dctdp              choose a method of a group: {groups}
  train.rounds=30               override one setting (see docs/configuration.md)
  study=quick                   start from configs/study/quick.yaml
"""


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the argument parser of all commands; with `only` one's arguments, which is all that running it needs."""
    top = argparse.ArgumentParser(
        prog="fedveil",
        description="Federated face recognition on protected faces, with honest privacy accounting.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`fedveil COMMAND --help` shows examples.",
    )
    top.add_argument("--version", action="version", version=f"fedveil {fedveil.__version__}")
    listed = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    forms = _FORMS.format(groups=", ".join([*words.METHOD_GROUPS, *words.SETTING_GROUPS]))
    for name in commands.names():
        text = commands.help_of(name)
        made = listed.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if only in (None, name):
            command = commands.load(name)
            made.epilog = command.EXAMPLES + forms
            made.set_defaults(run=command.run)
            command.arguments(made)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message on standard error and exit status 2."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    addresses.words_without_secrets(given)  # so that no message repeats one, whatever is wrong with its word
    name = next((word for word in given if not word.startswith("-")), None)
    known = commands.names()
    if name is not None and name not in known:
        near = checks.nearest(name, known) or f" Choose from {', '.join(known)}."
        print(f"fedveil: Unknown command {name!r}.{near}", file=sys.stderr)
        return 2
    top = parser(name or "")
    chosen, rest = top.parse_known_args(given)  # argparse loses the words that follow an option
    if rest and (not hasattr(chosen, "words") or any(word.startswith("-") for word in rest)):
        top.error(addresses.redacted(f"unrecognized arguments: {' '.join(rest)}"))
    if rest:
        chosen.words = [*chosen.words, *rest]
    try:
        with disk.named_output():
            status: int = chosen.run(chosen)
        return status
    except checks.UserError as error:
        print(addresses.redacted(f"fedveil: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(addresses.redacted(f"fedveil: {disk.said(error)}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfedveil: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
