"""From words to attacks: `attack=linear,distillation attack.victims=100`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from fedveil import checks
from fedveil.configuration import files, plugins, text, typed
from fedveil.configuration.words import ATTACK

DEFAULT = "linear,distillation"
"""The cheapest strong attacks."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An attack under its name, with its settings."""

    name: str
    attack: Any


def apart(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the words that speak of attacks, and all others, in their order.

    >>> apart(["attack=linear", "runs.root=there", "attack.victims=50"])
    (['attack=linear', 'attack.victims=50'], ['runs.root=there'])
    """
    listed = [*words]
    mine = [word for word in listed if word.partition("=")[0].partition(".")[0] == ATTACK]
    return mine, [word for word in listed if word not in mine]


def of(
    words: Iterable[str], default: str = DEFAULT, given: Mapping[str, Mapping[str, str]] | None = None
) -> list[Chosen]:
    """Return the attacks that words name, each with those of the settings that it has; `attack=none` is none.

    Args:
        words: `attack=NAME,NAME` and `attack.SETTING=value`.
        default: the attacks where words name none.
        given: what a study says: attack -> setting -> text. A word replaces it.

    Raises:
        fedveil.checks.UserError: an unknown attack or setting, with the nearest; a setting that none of them has.

    >>> [one.name for one in of(["attack=replay", "attack.victims=50"])]
    ['replay']
    """
    names, said = default, {}
    for word in words:
        key, _, value = word.partition("=")
        if key == ATTACK:
            names = value
        else:
            said[key.partition(".")[2]] = value
    listed = [] if names == "none" else list(dict.fromkeys(text.pieces(names, lists=False)))
    known = {name: typed.hints(plugins.method(ATTACK, name)) for name in listed}
    for key in said:
        if not any(key in hints for hints in known.values()):
            every = sorted({field for hints in known.values() for field in hints})
            raise checks.UserError(
                f"Unknown setting attack.{key} of attack={','.join(listed) or 'none'}.{checks.nearest(key, every)}"
            )
    mine = {name: {key: value for key, value in said.items() if key in known[name]} for name in listed}
    return [Chosen(name, built(name, {**(given or {}).get(name, {}), **mine[name]})) for name in listed]


def built(name: str, said: Mapping[str, str]) -> Any:
    """Return an attack with the settings of its file, and what words say instead of some."""
    hints = typed.hints(plugins.method(ATTACK, name))
    read = {key: text.read(hints[key], value, f"attack.{key}") for key, value in said.items()}
    return typed.block(plugins.method(ATTACK, name), {**files.read(ATTACK, name), **read}, ATTACK)
