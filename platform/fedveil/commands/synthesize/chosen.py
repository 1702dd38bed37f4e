"""From words to what is made: `synthesis=TIER` and `synthesis.SETTING=value` beside the words of a configuration."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from fedveil import checks, config
from fedveil.configuration import files, text, typed
from fedveil.configuration.schema import Config
from fedveil.synthesis.making import Making, Wanted
from fedveil.synthesis.sampling import Sampling
from fedveil.synthesis.training import Training

GROUP = "synthesis"
DEFAULT = "cpu"
_FIXED = ("generator=id3", "generator.shared=true", "protection=none")  # whose faces may be learnt is asked by `making`
_OWN = tuple(word.partition("=")[0] for word in _FIXED)
_PARTS: Mapping[str, type[Any]] = {"making": Making, "training": Training, "sampling": Sampling}
_TABLE = "attributes"
"""The setting that is a table of numbers by name; in words and files it is a list of `name=number`."""


def kinds() -> dict[str, Any]:
    """Return the type of every setting as words and files have it."""
    known = {key: kind for part in _PARTS.values() for key, kind in typed.hints(part).items()}
    return {**known, _TABLE: tuple[str, ...]}


def of(words: Iterable[str]) -> tuple[Config, Wanted]:
    """Return the configuration and what is to be made.

    Raises:
        fedveil.checks.UserError: an unknown tier or setting, with the nearest; a value of another type or range.

    >>> settings, wanted = of(["synthesis=quick", "synthesis.identities=4", "seed=2"])
    >>> settings.seed, settings.generator.name, wanted.sampling.identities, wanted.training.steps
    (2, 'id3', 4, 600)
    """
    tier, said, others = DEFAULT, dict[str, str](), []
    for word in words:
        key, _, value = word.partition("=")
        if key == GROUP:
            tier = value
        elif key.startswith(f"{GROUP}."):
            said[key.removeprefix(f"{GROUP}.")] = value
        elif key in _OWN and word not in _FIXED:
            raise checks.UserError(f"{word} is not for this command to choose: it has {' '.join(_FIXED)}.")
        else:
            others.append(word)
    known = kinds()
    for key in said:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else f" It has {', '.join(known)}."
            raise checks.UserError(f"Unknown setting {GROUP}.{key}.{hint}")
    tree = files.read(GROUP, tier)
    given = tree.pop("words")
    read = {key: text.read(known[key], value, f"{GROUP}.{key}") for key, value in said.items()}
    return config.load([*given, *others, *_FIXED]), wanted({**tree, **read})


def wanted(tree: Mapping[str, Any]) -> Wanted:
    """Return what a tree of all settings asks for; `plain` is the inverse.

    Raises:
        fedveil.checks.UserError: a setting is missing, unknown, or of another type or range.
    """
    lacking = sorted(set(kinds()) ^ set(tree))
    if lacking:
        raise checks.UserError(f"Expected every setting of {GROUP} once; {lacking[0]} is missing or unknown.")
    table = _numbers(tree[_TABLE])
    parts: dict[str, Any] = {}
    for name, part in _PARTS.items():
        own = {field.name: tree[field.name] for field in dataclasses.fields(part) if field.name != _TABLE}
        made = typed.block(part, own, GROUP)
        parts[name] = dataclasses.replace(made, **{_TABLE: table}) if name == "sampling" else made
    return Wanted(**parts)


def plain(asked: Wanted) -> dict[str, Any]:
    """Return all settings as plain types."""
    found = {key: value for name in _PARTS for key, value in dataclasses.asdict(getattr(asked, name)).items()}
    return {**found, _TABLE: [f"{name}={value!r}" for name, value in found[_TABLE].items()]}


def _numbers(listed: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in listed:
        name, _, number = str(item).partition("=")
        if name.strip() in found:
            raise checks.UserError(f"{GROUP}.{_TABLE} has {name.strip()} twice; keep one.")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise checks.UserError(
                f"Expected {GROUP}.{_TABLE}=[{item}] to be name=number, such as [yaw=1.5]."
            ) from None
    return found
