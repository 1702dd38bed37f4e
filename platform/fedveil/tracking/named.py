"""What a run is called where runs are listed: its method, its budget and its seed, from its configuration alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fedveil import config
from fedveil.configuration import idle
from fedveil.configuration.schema import Config

_OF_A_RELEASE = {"total_epsilon": "image", "mean_epsilon": "coefficient"}
"""A protection's settings that are a budget, and of what."""

_BUDGETS = ("protection", "privacy.client", "privacy.image", "privacy.identity")


def method(settings: Config, also: Iterable[str] = ()) -> str:
    """Return the method with its budget: what runs that differ in nothing but their seed have in common.

    Args:
        settings: of the run.
        also: dotted keys of further settings to name, e.g. those that a sweep varies; budgets are named anyway.

    >>> method(config.load(["protection=dctdp", "protection.total_epsilon=8"]))
    'dctdp eps 8 (image)'
    >>> method(config.load(["protection=none", "data=synthetic"]))
    'none on synthetic faces'
    >>> method(config.load(["protection=none", "privacy.client.epsilon=inf", "train.lr=0.2"]), ["train.lr"])
    'none clip only (client) lr=0.2'
    """
    parts = [settings.title, *_releases(settings), *_training(settings)]
    if settings.privacy.test_seed is not None:
        parts.append("fixed noise")
    return " ".join([*parts, *_others(settings, also)])


def run(settings: Config, also: Iterable[str] = ()) -> str:
    """Return the name of a run.

    >>> run(config.load(["protection=none", "seed=2"]))
    'none seed 2'
    """
    return f"{method(settings, also)} seed {settings.seed}"


def order(method_: str) -> str:
    """Return what sorts methods by name and then by budget: every number with leading zeros.

    >>> sorted(["dct eps 16 (image)", "dct eps 8 (image)"], key=order)
    ['dct eps 8 (image)', 'dct eps 16 (image)']
    """
    return re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", lambda number: f"{float(number[0]):020.9f}", method_)


def sweep(words: Iterable[str], axes: Iterable[str], name: str | None = None) -> str:
    """Return the name of a sweep: its own, else its study's, else what it varies.

    >>> sweep(["study=quick", "seed=1,2"], ["seed"]), sweep([], ["protection", "protection.total_epsilon"])
    ('sweep quick', 'sweep of protection, total_epsilon')
    """
    study = next((word.removeprefix("study=") for word in words if word.startswith("study=")), None)
    if name or study:
        return f"sweep {name or study}"
    return f"sweep of {', '.join(key.rpartition('.')[2] for key in axes)}"


def _releases(settings: Config) -> Iterator[str]:
    for key, unit in _OF_A_RELEASE.items():
        given = dict(settings.protection.settings).get(key)
        if given is not None and not list(idle.found([f"protection.{key}"], settings)):
            yield f"eps {given:g} ({unit})"


def _training(settings: Config) -> Iterator[str]:
    given = settings.privacy
    for unit, budget in (("client", given.client), ("image steps", given.image), ("identity steps", given.identity)):
        if budget is None or (budget.epsilon is None and budget.noise_multiplier is None):
            continue
        said = f"noise {budget.noise_multiplier:g}" if budget.epsilon is None else f"eps {budget.epsilon:g}"
        yield f"{'clip only' if budget.epsilon == math.inf else said} ({unit})"


def _others(settings: Config, also: Iterable[str]) -> Iterator[str]:
    known = config.flat(settings)
    for key in also:
        budget = key.endswith("epsilon") and key.startswith(_BUDGETS)
        value = known.get(key, known.get(f"{key}.name"))
        if key not in ("seed", "protection") and not budget and value is not None:
            yield f"{key.rpartition('.')[2]}={_shown(value)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
