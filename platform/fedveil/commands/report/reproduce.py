"""The commands that make the same again: the sweep or the run, the attacks, the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from fedveil import checks, config
from fedveil.commands.report.gathered import Gathered, attacked
from fedveil.commands.report.rows import known_attacks
from fedveil.configuration import files, idle, text
from fedveil.configuration.schema import Config
from fedveil.configuration.words import ATTACK, METHOD_GROUPS
from fedveil.federation import planning
from fedveil.storage import addresses

_WHERE = ("engine", "tracking", "runs", "vault", "device", "device_batch")
_FOUND = ("privacy.client.noise_multiplier", "privacy.image.noise_multiplier", "privacy.identity.noise_multiplier")
"""What planning finds for a target, and writes into a run's configuration."""


def commands(gathered: Gathered) -> list[tuple[str, str]]:
    """Return (what it does, command) in the order of typing."""
    root = gathered.folder.parent
    place = [] if str(root) == "runs" else [f"runs.root={root}"]
    found = []
    if gathered.words is not None:
        again = shlex.join(["fedveil", "sweep", *gathered.words]) + gathered.name_option
        found.append(("the runs; what is finished is kept", again))
    else:
        settings = gathered.finished[0].settings
        assert settings is not None
        if (words := words_of(settings)) is not None:
            found.append(("the run, under a new id", shlex.join(["fedveil", "simulate", *words, *place])))
    for seen, finding in attacked(gathered.finished):
        again = shlex.join(["fedveil", "attack", seen.run.run_id, *attack_words(finding), *place])
        found.append((f"the attack {finding['file']}", again))
    found.append(("this page", shlex.join(["fedveil", "report", gathered.target, *place])))
    return [(what, addresses.redacted(command)) for what, command in found]


def missing(gathered: Gathered) -> list[str]:
    """Return the commands of attacks that nobody ran on a run, one a line; the first run of each setting."""
    root = gathered.folder.parent
    place = [] if str(root) == "runs" else [f"runs.root={root}"]
    lines = []
    for runs in gathered.settings:
        done = {finding["attack"] for seen in runs for finding in seen.findings}
        if rest := [name for name in known_attacks() if name not in done]:
            lines.append(shlex.join(["fedveil", "attack", runs[0].run.run_id, f"{ATTACK}={','.join(rest)}", *place]))
    return lines


def attack_words(finding: Mapping[str, Any]) -> list[str]:
    """Return the words that choose a finding's attack with its settings."""
    name = str(finding["attack"])
    if name not in known_attacks():  # of another version
        return [f"{ATTACK}={name}"]
    usual = files.read(ATTACK, name)
    changed = {key: value for key, value in finding["settings"].items() if usual.get(key) != value}
    return [f"{ATTACK}={name}", *(f"{ATTACK}.{key}={text.spoken(value)}" for key, value in changed.items())]


def words_of(settings: Config) -> list[str] | None:
    """Return command-line words that plan this configuration, or None where it cannot be said in words.

    Where it runs and is kept is left out. What is returned was loaded again, and came to the same configuration.
    """
    base = config.to_tree(config.load())
    tree = config.to_tree(settings)
    groups = [f"{group}={tree[group]['name']}" for group in METHOD_GROUPS if tree[group]["name"] != base[group]["name"]]
    known = dict(_leaves(config.to_tree(config.compose(groups)), ""))
    changed = {
        key: value
        for key, value in _leaves(tree, "")
        if key.split(".")[0] not in _WHERE and not key.endswith(".name") and known.get(key) != value
    }
    unread = dict(idle.found(changed, settings))
    said = {key: text.spoken(value) for key, value in changed.items() if key not in unread}
    for left_out in ((), _FOUND):
        words = [*groups, *(f"{key}={value}" for key, value in said.items() if key not in left_out)]
        try:
            if config.digest(planning.planned(config.load(words))) == config.digest(settings):
                return words
        except checks.UserError:
            continue
    return None


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys with values that are no blocks."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
