"""What somebody may have meant by a command, an option or a word that there is none of."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from fedveil import checks
from fedveil.configuration import settings

_NEAR = 0.75
"""Similarity (of `difflib`) from which a name is offered: a wrong guess is worse than none."""

_WORD = re.compile(r"([a-z_]+(\.[a-z_]+)*)=")


def option(given: str, following: str, command: str, options: Sequence[str], has_words: bool) -> str:
    """Return the refusal of an option that a command does not have, with the option or the word that was meant.

    Args:
        given: the option as it was typed, `--rounds` or `--rounds=5`.
        following: what was typed behind it; empty for nothing.
        command: the command's name.
        options: its options.
        has_words: whether it takes settings.

    >>> option("--rounds", "5", "simulate", ["--resume"], True)
    'Unknown option --rounds of `fedveil simulate`. Settings are words: train.rounds=5.'
    """
    name, _, value = given.partition("=")
    if name in options:
        return f"Option {name} stands behind its command: fedveil {command} {name}."
    known = {each.lstrip("-"): f" Did you mean {each}?" for each in options}
    forms = settings.forms() if has_words else {}
    words = {each: f" Settings are words: {_filled(form, value or following)}." for each, form in forms.items()}
    near = _nearest(name.lstrip("-"), {**words, **known})
    near = near or next((text for each, text in known.items() if each.startswith(name.lstrip("-"))), "")
    return f"Unknown option {name} of `fedveil {command}`.{near or f' `fedveil {command} --help` lists them.'}"


def bare_word(given: str, following: str, options: Sequence[str], commands: Sequence[str]) -> str:
    """Return the refusal of a word without `=`, with what may have been meant.

    >>> bare_word("plain", "", ["--plain"], [])
    "Expected group=name or section.key=value, got 'plain'. Did you mean the option --plain?"
    """
    known = {each: f" `fedveil {each}` is a command of its own." for each in commands}
    words = {each: f" Did you mean {_filled(form, following)}?" for each, form in settings.forms().items()}
    flags = {each.lstrip("-"): f" Did you mean the option {each}?" for each in options}
    near = _nearest(given.lstrip("-"), {**known, **words, **flags})
    return f"Expected group=name or section.key=value, got {given!r}.{near}"


def command(given: str, commands: Sequence[str]) -> str:
    """Return the refusal of a command that there is none of.

    >>> command("simulat", ["simulate", "sweep"])
    "Unknown command 'simulat'. Did you mean 'simulate'?"
    """
    if _WORD.match(given):
        return f"Unknown command {given!r}. A word follows a command: fedveil simulate {given}."
    near = difflib.get_close_matches(given, commands, n=1, cutoff=0.5)
    offered = f"Did you mean {near[0]!r}?" if near else f"Choose from {', '.join(commands)}."
    return f"Unknown command {given!r}. {offered}"


def only(given: Sequence[str], sections: Sequence[str], command: str) -> None:
    """Refuse a word that the command does not read.

    Raises:
        fedveil.checks.UserError: naming the word and what the command reads.
    """
    for word in given:
        if sections and word.partition("=")[0].partition(".")[0] not in sections:
            raise checks.UserError(f"{word} does nothing here: {command} reads {', '.join(sections)} and nothing else.")


def is_word(text: str) -> bool:
    """Return whether a text is a word of the configuration, known or nearly so, and not the name of a file.

    >>> is_word("study=quick"), is_word("protecton.mode=image"), is_word("a=b.png")
    (True, True, False)
    """
    found = _WORD.match(text)
    return found is not None and bool(_nearest(found[1], settings.forms())) and not Path(text).exists()


def _filled(form: str, value: str) -> str:
    usable = value if value and not value.startswith("-") and "=" not in value else ""
    return f"{form}{usable or 'VALUE'}" if form.endswith("=") else form


def _nearest(name: str, offers: dict[str, str]) -> str:
    plain = name.replace("-", "_")
    for each in (name, plain):
        if each in offers:
            return offers[each]
    near = difflib.get_close_matches(plain, offers, n=1, cutoff=_NEAR)
    return offers[near[0]] if near else ""
