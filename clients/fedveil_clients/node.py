"""What an owner's machine says about itself: the words of its node configuration, and nothing that arrives.

The words come from Flower's node configuration and from the TOML file that the environment variable FEDVEIL_NODE names
(Flower's own simulation hands its nodes a partition number and nothing else). A simulation by `fedveil simulate` passes
them itself and reads no file.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil import device as devices
from fedveil.configuration.schema import Group, Policy
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.privacy import ledger

FILE = instruction.NODE_FILE

WORDS: Mapping[str, tuple[type, str]] = {
    "client-id": (str, "which client of the registry this node is"),
    "partition-id": (int, "the same by its number from 0; Flower's simulation sets it"),
    "num-partitions": (int, "set by Flower's simulation; not read"),
    "data-set": (str, "the owner's stable id of the data set, in the owner's ledger; without / and *"),
    "data-root": (str, "folder or file of the owner's own faces"),
    "vault-root": (str, "the owner's private folder: key, noisy copies, class centres, ledger"),
    "floor": (str, "protections that the owner accepts, with commas between them"),
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
    "simulated": (bool, "data-root and vault-root serve all nodes of a simulation; each takes its share of the data"),
}
"""Word of a node's configuration -> its type and meaning."""

_UNREADABLE = "This node's file of words cannot be read."
_LIMITS = ("max-epsilon", "max-total-epsilon", "max-client-epsilon", "client-delta", "image-delta", "max-delta")


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
        policy: the node's policy; None takes the run configuration's, as a simulation does.
        data_root: where this owner's own pictures are; None where the source draws its faces.
        vault_root: where this owner's vault is; None: nowhere, so nothing can be accepted.
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
        return Path(self.vault_root).expanduser()

    def at_home(self, run: Federation) -> Federation:
        """Return the federation over the pictures that this node names: all of one owner's own, or a simulation's.

        Raises:
            NodeError: the run's source has a place and the node names none, or the other way round.
        """
        return _home(run, self.data_root, not self.simulated)


@functools.lru_cache(maxsize=8)
def _home(run: Federation, data_root: str | None, alone: bool) -> Federation:
    settings = run.settings
    place = instruction.place_of(settings.data.name)
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
    train = dataclasses.replace(settings.train, clients=1) if alone else settings.train
    return Federation(dataclasses.replace(settings, data=own, train=train))


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
    policy = None
    limits: dict[str, Any] = {w.replace("-", "_"): _read(w, words[w]) for w in _LIMITS if w in words}
    if "floor" in words or limits:
        floor = tuple(str(words["floor"]).replace(",", " ").split()) if "floor" in words else None
        policy = Policy(floor, **{"max_epsilon": None, **limits})
    if "data-set" in words:
        try:
            ledger.checked_name(str(words["data-set"]), "data-set")
        except checks.UserError as error:
            raise NodeError(str(error), "This node's data-set is expected to be a name without / and *.") from error
    places = {word: str(words[word]) if word in words else None for word in ("data-root", "vault-root")}
    return Node(
        data_set=str(words.get("data-set", f"{data_name}/{client_id}")),
        # A word such as "false" would count as true: only a plain yes is one.
        allow_test_seed=words.get("allow-test-seed", False) is True,
        policy=policy,
        data_root=places["data-root"],
        vault_root=places["vault-root"],
        simulated=words.get("simulated", False) is True,
        device=str(words.get("device", "auto")),
        device_batch=_read("device-batch", words["device-batch"]) if "device-batch" in words else None,
    )


def _read(word: str, value: Any) -> Any:
    """Return a number; text that is one counts, because Flower's node configuration may quote everything."""
    kind, _ = WORDS[word]
    try:
        return value if isinstance(value, kind) and not isinstance(value, bool) else kind(str(value))
    except ValueError as error:
        rule = f"to be a {'whole ' if kind is int else ''}number"
        raise NodeError(f"Expected {word}={value!r} {rule}.", f"This node's {word} is expected {rule}.") from error


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
    try:
        words = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"The node's file {path} cannot be read: {error}", _UNREADABLE) from error
    except tomllib.TOMLDecodeError as error:
        raise NodeError(f"The node's file {path} is no TOML: {error}", _UNREADABLE) from error
    if isinstance(words.get("floor"), list):
        words["floor"] = ",".join(map(str, words["floor"]))
    for word in ("data-root", "vault-root"):
        if isinstance(words.get(word), str):
            words[word] = str(path.expanduser().absolute().parent / Path(words[word]).expanduser())
    node_of("", words, "")
    return words
