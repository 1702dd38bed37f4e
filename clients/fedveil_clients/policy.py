"""The owner's floor: refuse a run weaker than local policy, and say why. The coordinator cannot lower it.

Words of Flower's node configuration: `data-set` (the owner's stable id of the data set), `data-root` (the owner's own
folder or file of faces), `vault-root`, `floor` (acceptable protections), `max-epsilon` (of one image's release),
`allow-test-seed` (true on simulated nodes only).

The floor comes from the node's own configuration when it has one. It is a safety rail, not a proof: whoever can replace
the code at the owner can replace the policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedveil import checks
from fedveil.privacy import statements
from fedveil.privacy.events import Event
from fedveil.schema import Config, Group, Policy, Root


class PolicyRefusal(Exception):
    """The owner refuses to take part; the message is the reason and may be sent to the coordinator."""


@dataclasses.dataclass(frozen=True)
class Node:
    """What the node's own configuration says; defaults are those of a real deployment, the cautious ones.

    Attributes:
        data_set: the owner's stable id of the data set.
        allow_test_seed: fixed noise is acceptable (simulations, tests).
        policy: the node's policy; None takes the run configuration's, as a simulation does.
        data_root: where this owner's own pictures are; None takes its share of the run's data, as a simulation does.
        vault_root: where this owner's vault is; None takes the run configuration's.
    """

    data_set: str
    allow_test_seed: bool = False
    policy: Policy | None = None
    data_root: str | None = None
    vault_root: str | None = None

    def at_home(self, settings: Config) -> Config:
        """Return the run's configuration with this owner's own places."""
        if self.vault_root is not None:
            settings = dataclasses.replace(settings, vault=Root(self.vault_root))
        if self.data_root is None:
            return settings
        field = next((name for name in ("root", "path") if name in settings.data.settings), None)
        if field is None:
            raise checks.UserError(f"data={settings.data.name} has no place that this node's data-root could be.")
        data = Group(settings.data.name, {**settings.data.settings, field: self.data_root})
        return dataclasses.replace(settings, data=data, train=dataclasses.replace(settings.train, clients=1))


def check(settings: Config, node: Node, event: Event) -> None:
    """Raise `PolicyRefusal` unless the run respects the owner's floor.

    Args:
        settings: the run's configuration as the coordinator sent it.
        node: the owner's own settings.
        event: what one image's use in this run would release.
    """
    policy = node.policy or settings.policy
    name = settings.protection.name
    if policy.floor is not None and name not in policy.floor:
        raise PolicyRefusal(f"the owner's floor accepts the protections {list(policy.floor)}, this run has {name!r}")
    if settings.privacy.test_seed is not None and not node.allow_test_seed:
        raise PolicyRefusal("the run fixes its noise (privacy.test_seed) and this node does not allow that")
    if policy.max_epsilon is None:
        return
    image = next(s for s in statements.price(event) if s.unit == "image")
    if image.epsilon is None or image.epsilon > policy.max_epsilon:
        shown = "none (infinite)" if image.epsilon is None else f"{image.epsilon:g} at delta {image.delta:g}"
        raise PolicyRefusal(
            f"the owner accepts an image-level epsilon of at most {policy.max_epsilon:g}; this run's is {shown}"
        )


def node_of(client_id: str, node_config: Mapping[str, Any], data_name: str) -> Node:
    """Return the settings of Flower's node configuration; the module's docstring lists its words."""
    policy = None
    if "floor" in node_config or "max-epsilon" in node_config:
        floor = str(node_config["floor"]).replace(",", " ").split() if "floor" in node_config else None
        limit = float(node_config["max-epsilon"]) if "max-epsilon" in node_config else None
        policy = Policy(tuple(floor) if floor is not None else None, limit)
    data_set = str(node_config.get("data-set", f"{data_name}/{client_id}"))
    # A word such as "false" would count as true: only a plain yes is one.
    allowed = node_config.get("allow-test-seed", False) is True
    places = {word: str(node_config[word]) if word in node_config else None for word in ("data-root", "vault-root")}
    return Node(data_set, allowed, policy, places["data-root"], places["vault-root"])
