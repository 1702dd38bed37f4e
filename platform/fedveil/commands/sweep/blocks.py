"""From a sweep's words to the values of every key, block by block: a study may be the union of several grids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fedveil import checks
from fedveil.configuration import settings, studies, text
from fedveil.configuration.words import GROUPS, METHOD_GROUPS, later

_NO_RESULT = ("engine", "tracking", "runs", "vault", "device", "device_batch")
"""Sections that are no part of a run's hash: sweeping them would find the first one's run again."""
KEY = "block"
"""The key under which a cell's values name its block, where the study has blocks."""


def said(words: Iterable[str]) -> dict[str, str]:
    """Return the words by key, `study` included; of two for one key the later counts."""
    given: dict[str, str] = {}
    for word in words:
        key, equals, text_ = word.partition("=")
        if not equals or not key:
            raise checks.UserError(f"Expected group=name, section.key=value or key=a,b,c, got {word!r}.")
        if key.startswith("engine."):
            raise checks.UserError(f"{word} does nothing in a sweep, where every run is one process: use --workers N.")
        given = later(given, {key: text_})
    return given


def of(words: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Return the values of every key, in the order in which keys count, by block; without blocks there is one, unnamed.

    A word replaces what the study says of its key where it says something of it: a budget of one block is no other's.

    Args:
        words: what `said` returns.
    """
    if len(names := text.pieces(words.get("study", ""))) > 1:
        raise checks.UserError(f"Expected one study, got study={','.join(names)}.")
    study = studies.read(words["study"]) if "study" in words else studies.Study()
    parts = study.blocks or {"": studies.Block()}
    given = {name: later(*_listed(study), *_listed(block)) for name, block in parts.items()}
    mine = {key: _values(key, value) for key, value in words.items() if key != "study"}
    told = {key for block in given.values() for key in block}
    whole = tuple(f"{key}." for key in mine if key not in GROUPS)  # privacy.image=none leaves nothing of its settings
    return {
        name: later(
            {key: values for key, values in block.items() if not key.startswith(whole)},
            {key: values for key, values in mine.items() if key in block or key not in told},
        )
        for name, block in given.items()
    }


def axes(given: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Return the swept keys with all values: those that have several in a block, and methods in which blocks differ.

    What else blocks hold fixed is their recipe, for which the block's name stands.

    Raises:
        fedveil.checks.UserError: nothing is swept, or something that cannot change a result.
    """
    found: dict[str, list[str]] = {KEY: [*given]} if [*given] != [""] else {}
    every: dict[str, dict[str, None]] = {}
    for block in given.values():
        for key, values in block.items():
            every.setdefault(key, {}).update(dict.fromkeys(values))
    for key, each in every.items():
        swept = any(len(block.get(key, ())) > 1 for block in given.values())
        if swept or (key in METHOD_GROUPS and len(each) > 1):
            found[key] = [*each]
    if not found:
        raise checks.UserError("Nothing to sweep: give a key several values, e.g. seed=1,2,3, or a study with a grid.")
    for key in found:
        if key.partition(".")[0] in _NO_RESULT:
            raise checks.UserError(
                f"{key} is no part of what is computed, so there is nothing to sweep; give it one value."
            )
    return found


def _listed(block: studies.Block) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    return {key: [value] for key, value in block.base.items()}, dict(block.grid)


def _values(key: str, value: str) -> list[str]:
    """Return the values that commas separate: those in quotes separate nothing, nor do those of a list in brackets."""
    is_list = settings.takes_lists(key)  # a path may hold a bracket
    found = [each if is_list else text.unquoted(each) for each in text.pieces(value, lists=is_list)]
    if "" in found:
        raise checks.UserError(f"{key}={value} has an empty value; write key=a,b,c without a comma at the end.")
    return found
