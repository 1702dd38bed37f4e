"""The owner's floor: refuse a run weaker than local policy, and say why. The coordinator cannot lower it.

Words of Flower's node configuration: `data-set` (the owner's stable id of the data set), `data-root` (the owner's own
folder or file of faces), `vault-root`, `floor` (acceptable protections), `max-epsilon` (of one image in one run),
`max-total-epsilon` (of one image over all runs), `max-client-epsilon` with `client-delta` (of the whole data set over
all client-level schedules), `allow-test-seed` (true on simulated nodes only).

The floor comes from the node's own configuration when it has one. It is a safety rail, not a proof: whoever can replace
the code at the owner can replace the policy.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil.configuration.schema import Group, Policy
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.accounting import filters
from fedveil.privacy.events import Event
from fedveil.privacy.spending import History, image_epsilon


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

    def vault(self, federation: Federation) -> Path:
        """Return where this owner's vault is."""
        return Path(self.vault_root if self.vault_root is not None else federation.settings.vault.root)

    def at_home(self, federation: Federation) -> Federation:
        """Return the federation of one client over this owner's own pictures; the run's own without a data root."""
        if self.data_root is None:
            return federation
        settings = federation.settings
        field = next((name for name in ("root", "path") if name in settings.data.settings), None)
        if field is None:
            raise checks.UserError(f"data={settings.data.name} has no place that this node's data-root could be.")
        data = Group(settings.data.name, {**settings.data.settings, field: self.data_root})
        alone = dataclasses.replace(settings.train, clients=1)
        return Federation(dataclasses.replace(settings, data=data, train=alone))


def check(federation: Federation, node: Node, event: Event) -> None:
    """Raise `PolicyRefusal` unless the run respects the owner's floor.

    Args:
        federation: of the run's configuration as the coordinator sent it.
        node: the owner's own settings.
        event: what one image's use in this run would release.
    """
    settings = federation.settings
    policy, name = node.policy or settings.policy, settings.protection.name
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


def check_runs(policy: Policy, before: History, after: History) -> None:
    """Raise `PolicyRefusal` unless all runs together, the new one included, stay within the owner's limits.

    Pure losses of one image are summed, which is valid however runs were settings. Client-level schedules go through a
    Renyi filter (Feldman and Zrnic, NeurIPS 2021, https://arxiv.org/abs/2008.11193) at a delta fixed beforehand.

    Args:
        policy: the owner's.
        before: what concerns the data set without the new run.
        after: the same with it.
    """
    limit = policy.max_total_epsilon
    if limit is not None:
        spent, total = image_epsilon(before.worst_picture()), image_epsilon(after.worst_picture())
        if total > limit:
            raise PolicyRefusal(
                f"the owner accepts an image-level epsilon of at most {limit:g} over all runs; {_shown(spent)} is "
                f"spent and this run would make it {_shown(total)}. Lower the budget, read an earlier mechanism's "
                "copies again, or raise max-total-epsilon at the node"
            )
    limit = policy.max_client_epsilon
    if limit is None:
        return
    delta = policy.client_delta
    if len(after.schedules) == 0:
        raise PolicyRefusal(
            f"the owner accepts a client-level epsilon of at most {limit:g} over all runs and this run has no "
            "client-level guarantee; set privacy.client.epsilon"
        )
    spent, total = (_client(tuple(history.client_events()), limit, delta) for history in (before, after))
    if total > limit:
        raise PolicyRefusal(
            f"the owner accepts a client-level epsilon of at most {limit:g} at delta {delta:g} over all schedules; "
            f"{_shown(spent)} is reserved and this run would make it {_shown(total)}. Plan more noise or fewer rounds, "
            "or raise max-client-epsilon at the node"
        )


@functools.lru_cache(maxsize=256)
def _client(schedules: tuple[Event, ...], limit: float, delta: float) -> float:
    return filters.filtered_epsilon(schedules, limit, delta)


def _shown(epsilon: float) -> str:
    return "no finite amount (a run without any guarantee)" if epsilon == float("inf") else f"{epsilon:.6g}"


def registry(federation: Federation, client_id: str, node: Node) -> tuple[str, ...]:
    """Return the data sets whose owner accepts a run when this node does: all of a simulation, which has one vault.

    A node with its own data set, pictures or vault speaks for itself alone.
    """
    share = f"{federation.data_id}/"
    if node.data_set != share + client_id or node.data_root is not None or node.vault_root is not None:
        return (node.data_set,)
    return tuple(share + name for name in federation.registry)


def node_of(client_id: str, node_config: Mapping[str, Any], data_name: str) -> Node:
    """Return the settings of Flower's node configuration; the module's docstring lists its words."""
    policy = None
    words = {"max-epsilon", "max-total-epsilon", "max-client-epsilon", "client-delta"} & set(node_config)
    if "floor" in node_config or words:
        floor = str(node_config["floor"]).replace(",", " ").split() if "floor" in node_config else None
        limits: dict[str, Any] = {word.replace("-", "_"): float(node_config[word]) for word in words}
        policy = Policy(tuple(floor) if floor is not None else None, **{"max_epsilon": None, **limits})
    data_set = str(node_config.get("data-set", f"{data_name}/{client_id}"))
    # A word such as "false" would count as true: only a plain yes is one.
    allowed = node_config.get("allow-test-seed", False) is True
    places = {word: str(node_config[word]) if word in node_config else None for word in ("data-root", "vault-root")}
    return Node(data_set, allowed, policy, places["data-root"], places["vault-root"])
