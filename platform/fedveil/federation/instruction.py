"""What crosses between coordinator and owners: stripped where it is sent, checked where it is received.

An owner's node acts on nothing that arrives but an instruction that it has checked. What says where something runs or
is kept (`configuration.places`) never leaves the coordinator, and is not read if it arrives all the same. This file
knows nothing of Flower; both apps use it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from fedveil import checks, config
from fedveil.configuration import places
from fedveil.configuration.schema import Config
from fedveil.federation import federation
from fedveil.federation.federation import Federation

NODE_FILE = "FEDVEIL_NODE"
"""The environment variable of an owner's machine that names its file of words (see `fedveil_clients.node`)."""
COORDINATOR_WORDS = "FEDVEIL_COORDINATOR"
"""The environment variable that holds the words of a coordinator's machine, which a bundle leaves out."""
NOWHERE = "\0"
"""Stands where a place has to be and none came: no system call accepts it, so what forgets to ask for one fails."""

_OWNERS = "vault"  # the section that a coordinator has nothing in
_LONGEST = 1 << 16  # characters of a configuration; a real one has about three thousand
_LARGEST = 10**9  # of any whole number but a seed
_REASON = 300  # characters
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


class BadInstruction(checks.UserError):
    """What arrived is no instruction that this version can follow; the message names what, and may be sent back."""


# --- configurations --------------------------------------------------------------------------------------------------


def to_wire(settings: Config) -> str:
    """Return a configuration as an owner may see it, one line of JSON: what is computed, and nothing of this machine.

    A backbone that starts from an earlier run or on synthetic faces is the coordinator's alone: an owner is sent its
    tensors. So is a file of verification pairs: owners evaluate nothing. Where a bank of synthetic faces is, each owner
    says itself.
    """
    return json.dumps(places.emptied(config.to_tree(settings)), sort_keys=True)


@functools.lru_cache(maxsize=8)
def digest(run: Federation) -> str:
    """Return a hash of a run's configuration as every owner sees it, wherever it is computed."""
    return hashlib.sha256(to_wire(run.settings).encode()).hexdigest()


def from_wire(text: object) -> Federation:
    """Return the federation of a configuration that arrived, with no place in it; one per process and text.

    Raises:
        BadInstruction: not a configuration of this version, or an absurd one.
    """
    if not isinstance(text, str):
        raise BadInstruction(f"Expected config to be JSON text, got {type(text).__name__}.")
    if len(text) > _LONGEST:
        raise BadInstruction(f"Expected config of at most {_LONGEST} characters, got {len(text)}.")
    return _received(text)


@functools.lru_cache(maxsize=4)
def _received(text: str) -> Federation:
    try:
        tree = _tree(text)
        found = Federation(_settings(tree))
        _ = found.planned_event, found.stages  # what a method refuses only when it is asked
        return found
    except BadInstruction:
        raise
    except Exception as error:  # foreign text: whatever reading it raises concerns its sender alone
        raise BadInstruction(f"The configuration cannot be read: {one_line(error)}") from error


def _tree(text: str) -> dict[str, Any]:
    def constant(name: str) -> None:
        raise BadInstruction(f"The configuration holds {name}, which is no JSON number.")

    tree = json.loads(text, parse_constant=constant)
    if not isinstance(tree, dict) or not isinstance(tree.get("data"), dict):
        raise BadInstruction("The configuration is no block with a block `data` in it.")
    for path, value in _leaves(tree, ""):
        if isinstance(value, str) and len(value) > 1000:
            raise BadInstruction(f"Expected {path} of at most 1000 characters, got {len(value)}.")
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and abs(value) > (2**63 if path.endswith("seed") else _LARGEST):
            raise BadInstruction(f"Expected {path} of a plausible size, got a number of {len(str(value))} digits.")
    return tree


def _leaves(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))
    if not isinstance(value, (dict, list)):
        yield path, value


def _settings(tree: dict[str, Any]) -> Config:
    """Return the typed configuration of a tree, with what a machine has to say itself left open."""
    own = {"engine": {"name": "inline"}, "tracking": {"name": "none"}, "runs": {"root": NOWHERE}}
    return config.parse({**places.emptied(tree, NOWHERE), **own, _OWNERS: {"root": NOWHERE}})


def own_keys(data: str) -> tuple[str, ...]:
    """Return what a coordinator's machine says for itself beside a bundle: sections, and settings of others."""
    found = [section for section in places.sections() if section != _OWNERS]
    for setting in places.settings({"data": data}):
        found += [setting.key, *(f"{setting.block}.{name}" for name in setting.mark.beside)]
    return tuple(found)


def is_own(word: str, keys: Sequence[str]) -> bool:
    """Return whether a command-line word is one of `own_keys`.

    >>> is_own("runs.root=here", own_keys("folder")), is_own("train.rounds=3", own_keys("folder"))
    (True, False)
    """
    key = word.partition("=")[0]
    return key in keys or key.partition(".")[0] in keys


def completed(text: str, words: Sequence[str] = ()) -> Federation:
    """Return the federation of a coordinator's configuration: a complete one, or a bundle's with its own `words`.

    Args:
        text: JSON with every section (a simulation's), or without those that a bundle leaves out.
        words: command-line words of this machine, for a bundle (`own_keys`).

    Raises:
        fedveil.checks.UserError: words of anything else, or a configuration that cannot be read.
    """
    try:
        whole = any(section in json.loads(text) for section in places.sections())
    except ValueError as error:
        raise checks.UserError(f"The run configuration's `config` is no JSON: {error}") from error
    if whole:
        return federation.kept(text)
    arrived = from_wire(text).settings
    keys = own_keys(arrived.data.name)
    for word in words:
        if not is_own(word, keys):
            raise checks.UserError(f"{COORDINATOR_WORDS}: {word} is for the bundle to say; here go {', '.join(keys)}.")
    own = config.to_tree(config.compose([f"data={arrived.data.name}", *words]))  # words that stand beside the bundle
    here = {section: own[section] for section in places.sections() if section != _OWNERS}
    return Federation(config.parse({**places.filled(config.to_tree(arrived), own), **here}))


# --- what comes with a configuration ----------------------------------------------------------------------------------


def plain_name(value: object, what: str) -> str:
    """Return a name that may become part of a path: letters, digits, dots, hyphens, no path by itself.

    >>> plain_name("20260102-dctdp", "run_id")
    '20260102-dctdp'
    >>> plain_name("../other", "run_id")
    Traceback (most recent call last):
        ...
    fedveil.federation.instruction.BadInstruction: Expected run_id='../other' of letters, digits, dots and hyphens.
    """
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        shown = value[:40] if isinstance(value, str) else value
        raise BadInstruction(f"Expected {what}={shown!r} of letters, digits, dots and hyphens.")
    return value


def round_of(run: Federation, value: object) -> int:
    """Return a number that is a round of the run's schedule."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= run.total_rounds:
        raise BadInstruction(f"Expected round={repr(value)[:40]} in 1..{run.total_rounds}, the schedule of this run.")
    return value


def one_line(reason: object) -> str:
    """Return what an exception or a text says, in one line of at most 300 characters.

    >>> one_line(ValueError("this  and that"))
    'this and that'
    """
    words = " ".join(str(reason).split()) or type(reason).__name__
    return words if len(words) <= _REASON else f"{words[:_REASON]}..."
