"""The command line: the commands of `fedveil.commands`, and one message where something goes wrong."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import fedveil
from fedveil import checks, commands, console, startup, tracking
from fedveil.commands import _mistakes
from fedveil.configuration import text, words
from fedveil.storage import addresses, disk

_START = """\
fedveil {version}: federated face recognition on protected faces

  fedveil simulate         a federation on this machine, about a minute
  fedveil methods          what there is to choose from
  fedveil protect FOLDER   what would leave of your pictures
  fedveil ui               all runs, in your browser

Any setting is a word: fedveil simulate protection=none train.rounds=10
`fedveil --help` lists the commands, `fedveil COMMAND --help` shows examples.
"""

_FORMS = """
words:
  train.rounds=30     override a setting (see docs/configuration.md)
  protection=dctdp    choose a method of a group:
{groups}
  study=quick         start from configs/study/quick.yaml
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help at 80 columns on any wider terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(console.WIDTH, shutil.get_terminal_size().columns - 2))


class _Parser(argparse.ArgumentParser):
    """A parser that refuses in the one voice of all refusals, and guesses no option from its first letters."""

    def __init__(self, **more: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **more)
        self.register("type", int, _whole)

    def error(self, message: str) -> NoReturn:
        """End with a message and exit status 2; argparse's own are no sentences yet."""
        more = "" if message.endswith((".", "?")) else f". `{self.prog} --help` shows how it is used."
        _complain(f"{message[:1].upper()}{message[1:]}{more}")
        raise SystemExit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = checks.nearest(str(value), action.choices) or f" Choose from {', '.join(action.choices)}."
            raise argparse.ArgumentError(None, f"Unknown {action.metavar or action.dest} {value!r}.{near}")


def _whole(given: str) -> int:
    """Read an option's whole number as a setting's is read."""
    try:
        return int(text.read(int, given, "it"))
    except checks.UserError as error:
        raise argparse.ArgumentTypeError(str(error).replace("it=", "", 1)) from None


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the argument parser of all commands; with `only` one's arguments, which is all that running it needs."""
    top = _Parser(
        prog="fedveil",
        description="Federated face recognition on protected faces, with honest privacy accounting.",
        epilog="`fedveil COMMAND --help` shows examples.",
    )
    top.add_argument("--version", action="version", version=f"fedveil {fedveil.__version__}")
    listed = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    groups, indent = ", ".join([*words.METHOD_GROUPS, *words.SETTING_GROUPS]), " " * 22
    forms = _FORMS.format(groups=textwrap.fill(groups, console.WIDTH, initial_indent=indent, subsequent_indent=indent))
    for name in commands.names():
        about = commands.help_of(name)
        made = listed.add_parser(name, help=about, description=about)
        if only in (None, name):
            command = commands.load(name)
            command.arguments(made)
            made.epilog = command.EXAMPLES + (forms if _takes_words(made) and not commands.reads(command) else "")
            made.set_defaults(run=command.run, parser=made, reads=commands.reads(command))
    return top


def _takes_words(made: argparse.ArgumentParser) -> bool:
    return any(action.dest == "words" for action in made._actions)


def _began() -> float:
    """Return when this process began, on the scale of `time.perf_counter`; where only the system knows, now."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])  # after the name, which may hold anything; since the boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        age = 0.0
    return time.perf_counter() - age


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message on standard error and exit status 2."""
    began = _began() if arguments is None else time.perf_counter()
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path need not be text, and an old terminal knows few signs
            stream.reconfigure(errors="backslashreplace")
    addresses.words_without_secrets(given)  # so that no message repeats one, whatever is wrong with its word
    try:
        if not given:
            print(_START.format(version=fedveil.__version__), end="")
            return 0
        chosen = _chosen(given)
        chosen.began = began
        with disk.named_output():
            status: int = chosen.run(chosen)
        return status
    except checks.UserError as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        _complain(disk.said(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted", before="\n")
        return 130


def _complain(message: str, before: str = "") -> None:
    console.complain(f"{before}fedveil: {message}")


def _chosen(given: list[str]) -> argparse.Namespace:
    """Return the arguments of the command that was typed.

    Raises:
        fedveil.checks.UserError: no such command, or a word that is none; the message names what may have been meant.
    """
    if given[0] == "help":
        given = [*given[1:], "--help"]
    name = next((word for word in given if not word.startswith("-")), None)
    known = commands.names()
    if name is not None and name not in known:
        raise checks.UserError(_mistakes.command(name, known))
    if name is not None and commands.tracks(name) and not {"tracking=none", "--help", "-h"} & {*given}:
        tracking.warm()  # beside the imports to come; a run that turns out to need none just ends it
    with startup.importing():
        top = parser(name or "")
    chosen, rest = top.parse_known_args(given)  # argparse loses the words that follow an option
    made: argparse.ArgumentParser = chosen.parser
    options = [flag for action in made._actions for flag in action.option_strings if flag.startswith("--")]
    following = dict(zip(given, [*given[1:], ""], strict=True))
    for flag in rest:
        if flag.startswith("-"):
            made.error(_mistakes.option(flag, following.get(flag, ""), str(name), options, _takes_words(made)))
    if rest and not hasattr(chosen, "words"):
        made.error(f"Unexpected {rest[0]!r}: `fedveil {name}` takes no words.")
    said = [*getattr(chosen, "words", ()), *rest]
    for action in (action for action in made._actions if not action.option_strings):
        value = getattr(chosen, action.dest, None)
        if action.nargs is None and _mistakes.is_word(str(value)):
            made.error(f"{action.metavar} is missing: {value} is a word, which follows it.")
        if action.nargs == "?" and "=" in str(value):  # what may be left out was, and this is the first word
            said.insert(0, str(value))
            setattr(chosen, action.dest, None)
    for word in said:
        if "=" not in word:
            raise checks.UserError(_mistakes.bare_word(word, following.get(word, ""), options, known))
    _mistakes.only(said, chosen.reads, f"`fedveil {name}`")
    chosen.words = said
    return chosen


if __name__ == "__main__":
    sys.exit(main())
