"""What an owner's machine says about itself: the words of its node configuration, and nothing that arrives.

The words come from Flower's node configuration and from the TOML file that the environment variable FEDVEIL_NODE names
(Flower's own simulation hands its nodes a partition number and nothing else). A simulation by `fedveil simulate` passes
them itself and reads no file.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil import device as devices
from fedveil.configuration import places, plugins, text
from fedveil.configuration.schema import Group, Policy
from fedveil.federation import instruction, synthetic
from fedveil.federation.federation import Federation
from fedveil.privacy import ledger
from fedveil_clients import vault_folder

FILE = instruction.NODE_FILE

WORDS: Mapping[str, tuple[type, str]] = {
    "client-id": (str, "which client of the registry this node is"),
    "partition-id": (int, "the same by its number from 0; Flower's simulation sets it"),
    "num-partitions": (int, "set by Flower's simulation; not read"),
    "data-set": (str, "the owner's stable id of the data set, in the owner's ledger; without / and *"),
    "data-root": (str, "folder or file of the owner's own faces"),
    "identity-bank": (str, "the owner's copy of the synthetic faces of a run with train.identity_bank=synthetic"),
    "vault-root": (str, "the owner's private folder: key, noisy copies, class centres, ledger"),
    "vault-witness": (str, "file outside the vault that notices an older state of it; beside the vault by default"),
    "floor": (str, "protections, and generators, that the owner accepts, with commas between them"),
    "max-epsilon": (float, "largest image-level epsilon of one run"),
    "max-total-epsilon": (float, "largest image-level epsilon of all runs together"),
    "max-client-epsilon": (
        float, "largest client-level epsilon of all accepted schedules together; a run without one is refused"
    ),
    "client-delta": (float, "delta of max-client-epsilon"),
    "image-delta": (float, "delta at which image-level limits stand"),
    "max-delta": (float, "largest delta accepted, instead of 1e-5 and a tenth over the number of units"),
    "device": (str, "where this node computes: auto, cpu, cuda, cuda:1 or mps"),
    "device-batch": (int, "images that pass a network together, where a device's memory asks for fewer than a batch"),
    "allow-test-seed": (bool, "accept fixed noise, which protects nobody"),
    "allow-shared-generator": (bool, "accept a generator that learns this owner's faces without any budget"),
    "simulated": (bool, "data-root and vault-root serve all nodes of a simulation; each takes its share of the data"),
}
"""Word of a node's configuration -> its type and meaning."""

_PLACES = ("data-root", "identity-bank", "vault-root", "vault-witness")
_UNREADABLE = "This node's file of words cannot be read."
_LIMITS = ("max-epsilon", "max-total-epsilon", "max-client-epsilon")
_DELTAS = ("client-delta", "image-delta", "max-delta")
"""Where limits stand: no limits, so that a node which says nothing else keeps those of the coordinator."""


class NodeError(checks.UserError):
    """The node's own configuration lacks a word or has a wrong one; the message names it.

    `told` is what a coordinator may read of it: the word, and nothing that stands on this machine.
    """

    def __init__(self, reason: str, told: str = "") -> None:
        super().__init__(reason)
        self.told = told or reason


@dataclasses.dataclass(frozen=True)
class Node:
    """What the node's own configuration says; defaults are those of a real deployment, the cautious ones.

    Attributes:
        data_set: the owner's stable id of the data set.
        allow_test_seed: fixed noise is acceptable (simulations, tests).
        allow_shared_generator: a generator may learn this owner's faces without any budget.
        policy: the node's policy; None takes the run configuration's, as a simulation does.
        data_root: where this owner's own pictures are; None where the source draws its faces.
        identity_bank: where this owner's copy of the run's synthetic negatives is; None: nowhere.
        vault_root: where this owner's vault is; None: nowhere, so nothing can be accepted.
        vault_witness: the file that notices an older state of the vault; None: beside it (`witness.beside`).
        simulated: one of a simulation's nodes, whose data and vault serve the whole registry.
        device: where this node computes.
        device_batch: images that pass a network together, at most; None: a whole batch.
    """

    data_set: str
    allow_test_seed: bool = False
    policy: Policy | None = None
    data_root: str | None = None
    vault_root: str | None = None
    simulated: bool = False
    device: str = "auto"
    device_batch: int | None = None
    identity_bank: str | None = None
    allow_shared_generator: bool = False
    vault_witness: str | None = None

    @property
    def shares_generators(self) -> bool:
        """Whether a generator may learn without a budget: by the owner's own word, and in a simulation by the run's."""
        return self.simulated or self.allow_shared_generator

    def place(self, run: Federation) -> devices.Place:
        """Return where this node computes, in the precision that the run asks for.

        Raises:
            NodeError: this node's device does not exist, or cannot compute in that precision.
        """
        try:
            return devices.place(self.device, run.settings.precision, self.device_batch)
        except checks.UserError as error:
            raise NodeError(str(error), f"This node cannot compute in precision={run.settings.precision}.") from error

    def vault(self) -> Path:
        """Return where this owner's vault is; it need not exist."""
        if self.vault_root is None:
            raise NodeError("This node has no vault: set vault-root=FOLDER, its private folder, in its configuration.")
        return _vault(self.vault_root, self.data_root, os.getcwd())

    def at_home(self, run: Federation) -> Federation:
        """Return the federation over the pictures that this node names: all of one owner's own, or a simulation's.

        Raises:
            NodeError: the run's source has a place and the node names none, or the other way round; or the run has
                synthetic negatives, and the node names no file of them.
        """
        return _home(run, self.data_root, not self.simulated, self.identity_bank)


@functools.lru_cache(maxsize=8)
def _vault(vault_root: str, data_root: str | None, here: str) -> Path:
    """Return where a vault is, seen from the folder `here`; a process looks once, and not with every message."""
    place = _place("vault-root", vault_root)
    try:
        vault_folder.apart(place, data_root)
    except checks.UserError as error:
        raise NodeError(str(error), "This node's vault-root and data-root are not apart.") from error
    return place


@functools.lru_cache(maxsize=8)
def _home(run: Federation, data_root: str | None, alone: bool, bank: str | None) -> Federation:
    settings = run.settings
    if synthetic.has_bank(settings) and bank is None:
        raise NodeError(
            "The run has synthetic negatives (train.identity_bank=synthetic) and this node has none: set "
            "identity-bank=FILE, its copy of the coordinator's set, in its configuration."
        )
    if synthetic.has_bank(settings) and settings.train.synthetic != bank:
        settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, synthetic=bank))
        run = Federation(settings)
    place = places.of_source(settings.data.name)
    if place is None and data_root is not None:
        raise NodeError(f"data={settings.data.name} has no place that this node's data-root could be.")
    if place is None or data_root is None:
        if place is not None:
            raise NodeError(
                f"The run reads data={settings.data.name} and this node has none: set data-root=PLACE, its own faces, "
                "in its configuration."
            )
        return run
    own = Group(settings.data.name, {**settings.data.settings, place: data_root})
    if own == settings.data and not alone:  # it is there already, maybe over other people (`Federation.over`)
        return run
    if not alone:
        return Federation(dataclasses.replace(settings, data=own))
    if "evaluation" in own.settings:  # the coordinator evaluates on its own people: of an owner's nobody is held out
        own = Group(own.name, {**own.settings, "evaluation": "procedural"})
    return Federation(dataclasses.replace(settings, data=own, train=dataclasses.replace(settings.train, clients=1)))


@dataclasses.dataclass(frozen=True, eq=False)
class Here:
    """One node in one run.

    Attributes:
        client_id: which client of the registry the node says it is.
        node: its own settings.
        run: the run's federation, without places.
        home: the same over the pictures that the node names.
    """

    client_id: str
    node: Node
    run: Federation
    home: Federation


def here(run: Federation, words: Mapping[str, Any]) -> Here:
    """Return a node in a run.

    Raises:
        NodeError: a word is missing, unknown or of another type, or the node is no client of this run's registry.
    """
    name = client_of(run, words)
    node = node_of(name, words, "")
    if node.policy is None and (deltas := _numbers(words, _DELTAS)):
        node = dataclasses.replace(node, policy=_policy(run.settings.policy, deltas))
    home = node.at_home(run)
    node.vault()
    if "data-set" in words:
        return Here(name, node, run, home)
    own = node.data_root is not None and not node.simulated
    # All of an owner's own pictures are one data set, whatever source and deal a coordinator's configuration names.
    default = home.source_id if own else f"{home.data_id}/{name}"
    return Here(name, dataclasses.replace(node, data_set=default), run, home)


def client_of(run: Federation, words: Mapping[str, Any]) -> str:
    """Return the node's id in the public registry: its own `client-id`, or the one of its partition number."""
    registry = run.registry
    if "client-id" in words:
        name = str(words["client-id"])
        if name not in registry:
            raise NodeError(
                f"client-id={name[:40]!r} is not in the registry of train.clients={len(registry)}, {registry[0]} to "
                f"{registry[-1]}; set client-id in the node's configuration."
            )
        number = words.get("partition-id")
        if number is not None and registry.index(name) != _read("partition-id", number):
            raise NodeError(f"client-id={name} and partition-id={number} name two clients; keep one of them.")
        return name
    if "partition-id" not in words:
        raise NodeError("This node does not say who it is: set client-id=NAME, its id in the registry.")
    number = int(_read("partition-id", words["partition-id"]))
    if not 0 <= number < len(registry):
        raise NodeError(f"partition-id={number} is beyond the registry of train.clients={len(registry)}.")
    name = registry[number]
    return name


def node_of(client_id: str, words: Mapping[str, Any], data_name: str) -> Node:
    """Return the settings that words say; those of `WORDS` are all there are.

    Raises:
        NodeError: an unknown word, with the nearest, or one of another type.
    """
    for word in words:
        if word not in WORDS:
            raise NodeError(f"Unknown word {word!r} in the node's configuration.{checks.nearest(word, WORDS)}")
        if isinstance(words[word], (list, dict)):
            raise NodeError(f"Expected {word} to be one value, text, number or truth value.")
    if "data-set" in words:
        try:
            ledger.checked_name(str(words["data-set"]), "data-set")
        except checks.UserError as error:
            raise NodeError(str(error), "This node's data-set is expected to be a name without / and *.") from error
    read = {word: _read(word, value) for word, value in words.items()}
    policy = _policy(Policy(read.get("floor"), None), _numbers(words, (*_LIMITS, *_DELTAS)))
    return Node(
        data_set=str(words.get("data-set", f"{data_name}/{client_id}")),
        allow_test_seed=read.get("allow-test-seed", False),
        policy=policy if any(word in words for word in ("floor", *_LIMITS)) else None,
        data_root=read.get("data-root"),
        vault_root=read.get("vault-root"),
        simulated=read.get("simulated", False),
        device=str(words.get("device", "auto")),
        device_batch=read.get("device-batch"),
        identity_bank=read.get("identity-bank"),
        allow_shared_generator=read.get("allow-shared-generator", False),
        vault_witness=read.get("vault-witness"),
    )


def _numbers(words: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {word.replace("-", "_"): _read(word, words[word]) for word in names if word in words}


def _policy(base: Policy, numbers: Mapping[str, Any]) -> Policy:
    """Return a policy with a node's numbers; what it refuses is told by the node's own words."""
    try:
        return dataclasses.replace(base, **numbers)
    except checks.UserError as error:
        text = re.sub(r"policy\.(\w+)", lambda found: found[1].replace("_", "-"), str(error))
        raise NodeError(text) from error


def _read(word: str, value: Any) -> Any:
    """Return a word's value by its type; text that is a number counts: Flower's node configuration may quote it."""
    kind, _ = WORDS[word]
    if kind is bool:
        return _truth(word, value)
    if word == "floor":
        return _floor(value)
    if word in _PLACES:
        _place(word, value)
        return value
    if kind is str:
        return str(value)
    rule = f"to be a {'whole ' if kind is int else ''}number"
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value if kind is int and isinstance(value, int) else _float(kind, value)
        return text.read(kind, str(value).strip(), word)
    except (ValueError, OverflowError) as error:
        reason = str(error) if isinstance(error, checks.UserError) else f"Expected {word}={value!r} {rule}."
        raise NodeError(reason, f"This node's {word} is expected {rule}.") from error


def _float(kind: type, value: float) -> float:
    if kind is int:
        raise ValueError(value)
    return float(value)


def _truth(word: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    near = f" Write {word} = {str(value).lower()}, without quotes." if str(value).lower() in ("true", "false") else ""
    raise NodeError(f"Expected {word}={value!r} to be true or false.{near}", f"This node's {word} is no truth value.")


def _floor(value: Any) -> tuple[str, ...]:
    """Return the protections and generators of a floor; a mistyped one would refuse all, or accept the wrong ones."""
    if not isinstance(value, str):
        raise NodeError(f"Expected floor={value!r} to be names of protections, e.g. floor = \"dctdp, none\".")
    names, known = value.replace(",", " ").split(), plugins.acceptable()
    if not names:
        raise NodeError(f"floor={value!r} names no protection; leave it out, or choose from {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise NodeError(
                f"floor={value!r}: unknown protection {name!r}; choose from {', '.join(known)}."
                f"{checks.nearest(name, known)}"
            )
    return tuple(names)


def _place(word: str, value: Any) -> Path:
    """Return a place of this machine.

    Raises:
        NodeError: no text, an empty one, or one that no system has a file for.
    """
    told = f"This node's {word} is no place."
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise NodeError(f"Expected {word}={value!r} to be a folder or file, as text.", told)
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~nobody
        raise NodeError(f"{word}={value!r}: there is no such user.", told) from error


def words_of(node_config: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the words of this machine: Flower's node configuration, and the file that FEDVEIL_NODE names.

    Raises:
        NodeError: no such file, or one word with two values: a limit that is lost between them would protect nobody.
    """
    name = environment.get(FILE, "")
    if not name or node_config.get("simulated") is True:
        return dict(node_config)
    own = read(Path(name))
    for word in own.keys() & node_config.keys():
        if own[word] != node_config[word]:
            raise NodeError(
                f"{word} is {own[word]!r} in {name} ({FILE}) and {node_config[word]!r} in the node's configuration; "
                "keep one.",
                f"This node has two values of {word}.",
            )
    return {**own, **node_config}


def read(path: Path) -> dict[str, Any]:
    """Return the words of an owner's TOML file; relative places start at its folder.

    Raises:
        NodeError: a file that cannot be read, or an unknown word, with the nearest.
    """
    file = _place(FILE, str(path))
    if file.exists() and not file.is_file():
        raise NodeError(f"The node's file {path} is no file.", _UNREADABLE)
    try:
        words = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"The node's file {path} cannot be read: {error}", _UNREADABLE) from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise NodeError(f"The node's file {path} is no TOML: {error}", _UNREADABLE) from error
    floor = words.get("floor")
    if isinstance(floor, list) and all(isinstance(name, str) for name in floor):
        words["floor"] = ",".join(floor)
    for word in _PLACES:
        if word in words and not isinstance(words[word], (list, dict)):
            words[word] = str(file.absolute().parent / _place(word, words[word]))
    node_of("", words, "")
    return words
