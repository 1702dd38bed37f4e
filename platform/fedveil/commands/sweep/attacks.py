"""The attacks of a sweep: which are run on every finished run, and what they have found so far.

They are no part of a run: its id, and the sweep's, are the same with them and without. What was found is a file in the
attacked run's folder, so an attack whose file is there is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedveil import checks
from fedveil.attacks import _chosen, _kept, base
from fedveil.attacks._chosen import Chosen
from fedveil.attacks.base import Progress
from fedveil.commands.attack.attack import attack
from fedveil.configuration import plugins, studies, typed
from fedveil.configuration.schema import Config
from fedveil.configuration.words import ATTACK
from fedveil.runs import Run


def of(words: Iterable[str], study: str | None) -> tuple[Chosen, ...]:
    """Return a sweep's attacks: what words say, else what its study says; none where neither does.

    Args:
        words: `attack=NAME,NAME`, `attack=none` and `attack.SETTING=value`, which every attack that has it takes.
        study: its name; None for no study.

    Raises:
        fedveil.checks.UserError: an unknown attack or setting, with the nearest; a setting that none of them has.
    """
    given = studies.read(study).attacks if study is not None else {}
    return tuple(_chosen.of(words, ",".join(given) or "none", given))


def job(chosen: Sequence[Chosen]) -> str:
    """Return attacks as JSON, for a worker."""
    return json.dumps(listed(chosen))


def of_job(text: str) -> list[Chosen]:
    """Return what `job` wrote."""
    return [
        Chosen(one["name"], typed.block(plugins.method(ATTACK, one["name"]), one["settings"], ATTACK))
        for one in json.loads(text)
    ]


def listed(chosen: Sequence[Chosen]) -> list[dict[str, Any]]:
    """Return attacks as plain JSON types."""
    return [{"name": one.name, "settings": base.settings_of(one.attack)} for one in chosen]


def found(run: Run, chosen: Sequence[Chosen]) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Return what attacks have found on a run, by their files' names, and the attacks whose finding is missing.

    A damaged file is a missing finding: the attack is run again.
    """
    there: dict[str, Mapping[str, Any]] = {}
    missing = []
    for one in chosen:
        path = _kept.path_of(run, one.name, one.attack)
        try:
            there[path.name] = _kept.read(path)
        except (checks.UserError, OSError):
            missing.append(one.name)
    return there, missing


def run_all(
    settings: Config, run_id: str, chosen: Sequence[Chosen], said: Callable[[Exception], str], progress: Progress
) -> list[str]:
    """Attack a finished run with all of them, one after another; return why the ones that failed did.

    Args:
        settings: the run's.
        run_id: a finished run.
        chosen: those that were run before are not run again.
        said: from what an attack raised to one line.
        progress: is told the attack's name with every step.
    """
    left, failed = [*chosen], []
    while left:
        try:
            for _ in attack(settings, run_id, [*left], lambda _, done, total: progress(left[0].name, done, total)):
                left.pop(0)
        except Exception as error:  # this attack's failure, which stops no other
            failed.append(f"{ATTACK} {left.pop(0).name}: {said(error)}")
    return failed
