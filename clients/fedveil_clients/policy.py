"""The owner's floor: refuse a run weaker than local policy, and say why. The coordinator cannot lower it.

Words of Flower's node configuration: `data-set` (the owner's stable id of the data set), `data-root` (the owner's own
folder or file of faces), `vault-root`, `floor` (acceptable protections), `max-epsilon` (of one image in one run),
`max-total-epsilon` (of one image over all runs), `max-client-epsilon` with `client-delta` (of the whole data set over
all client-level schedules), `image-delta` (at which image-level limits stand), `max-delta` (the largest delta that is
accepted where the number of units asks for less), `allow-test-seed` (true on simulated nodes only).

The floor comes from the node's own configuration when it has one. It is a safety rail, not a proof: whoever can replace
the code at the owner can replace the policy.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil.configuration.schema import Group, Policy
from fedveil.federation import planning
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.accounting import filters
from fedveil.privacy.events import Event, LocalRelease
from fedveil.privacy.ledger import everybody_of
from fedveil.privacy.spending import History

_LIMITS = ("max-epsilon", "max-total-epsilon", "max-client-epsilon", "client-delta", "image-delta", "max-delta")


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

    Two pairs (epsilon, delta) cannot be compared by epsilon alone: what the run offers is converted to the owner's own
    delta first, or to its pure epsilon.

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
    for unit, (setting, delta) in planning.deltas(settings).items():
        _check_delta(setting, delta, federation.units(unit), unit, policy)
    if policy.max_epsilon is None:
        return
    offered = math.inf
    if isinstance(event, LocalRelease):
        offered = statements.local_epsilon([(event, 1)], policy.image_delta)
    if offered > policy.max_epsilon:
        shown = "none (infinite)" if math.isinf(offered) else f"{offered:.6g} at delta {_delta_of(event, policy):g}"
        raise PolicyRefusal(
            f"the owner accepts an image-level epsilon of at most {policy.max_epsilon:g} at delta "
            f"{policy.image_delta:g}; this run's is {shown}"
        )


def check_count(federation: Federation, node: Node, event: Event, images: int) -> None:
    """Raise `PolicyRefusal` unless delta is small enough for as many images as the owner has.

    The number stays with the owner; the reason that may be sent says no more than what the assumption says anyway.
    """
    if isinstance(event, LocalRelease) and event.mechanism == "gaussian":
        policy = node.policy or federation.settings.policy
        _check_delta("protection.delta", event.delta, images, "image", policy)


def _check_delta(setting: str, delta: float, units: int | None, unit: str, policy: Policy) -> None:
    try:
        planning.check_delta(setting, delta, units, unit, policy.max_delta)
    except checks.UserError as error:
        raise PolicyRefusal(str(error)) from error


def _delta_of(event: Event, policy: Policy) -> float:
    return policy.image_delta if isinstance(event, LocalRelease) and event.mechanism == "gaussian" else 0.0


def check_runs(policy: Policy, before: History, after: History) -> None:
    """Raise `PolicyRefusal` unless all runs together, the new one included, stay within the owner's limits.

    Limits and totals stand at deltas that were fixed beforehand, and hold however runs were chosen: image-level totals
    and client-level schedules go through filters (`privacy.accounting.filters`).

    Args:
        policy: the owner's.
        before: what concerns the data set without the new run.
        after: the same with it.
    """
    limit = policy.max_total_epsilon
    if limit is not None:
        delta = policy.image_delta
        spent, total = (_image(history, limit, delta) for history in (before, after))
        if total > limit:
            raise PolicyRefusal(
                f"the owner accepts an image-level epsilon of at most {limit:g} at delta {delta:g} over all runs; "
                f"{_shown(spent)} is spent and this run would make it {_shown(total)}. Lower the budget, read an "
                "earlier mechanism's copies again, or raise max-total-epsilon at the node"
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


def _image(history: History, limit: float, delta: float) -> float:
    """Return what the filter finds for the worst picture; inf where something left without a guarantee."""
    if any(picture.unprotected for picture in history.pictures):
        return math.inf
    return max(filters.filtered_local(picture.local(), limit, delta) for picture in history.pictures)


@functools.lru_cache(maxsize=256)
def _client(schedules: tuple[Event, ...], limit: float, delta: float) -> float:
    return filters.filtered_epsilon(schedules, limit, delta)


def _shown(epsilon: float) -> str:
    return "no finite amount (a run without any guarantee)" if epsilon == float("inf") else f"{epsilon:.6g}"


def everybody(federation: Federation, client_id: str, node: Node) -> str | None:
    """Return the subject that stands for all clients when this one accepts: a simulation has one vault for all.

    A node with its own data set, pictures or vault speaks for itself alone: None.
    """
    share = f"{federation.data_id}/{client_id}"
    if node.data_set != share or node.data_root is not None or node.vault_root is not None:
        return None
    return everybody_of(share)


def node_of(client_id: str, node_config: Mapping[str, Any], data_name: str) -> Node:
    """Return the settings of Flower's node configuration; the module's docstring lists its words."""
    policy = None
    words = set(_LIMITS) & set(node_config)
    if "floor" in node_config or words:
        floor = str(node_config["floor"]).replace(",", " ").split() if "floor" in node_config else None
        limits: dict[str, Any] = {word.replace("-", "_"): float(node_config[word]) for word in words}
        policy = Policy(tuple(floor) if floor is not None else None, **{"max_epsilon": None, **limits})
    data_set = str(node_config.get("data-set", f"{data_name}/{client_id}"))
    # A word such as "false" would count as true: only a plain yes is one.
    allowed = node_config.get("allow-test-seed", False) is True
    places = {word: str(node_config[word]) if word in node_config else None for word in ("data-root", "vault-root")}
    return Node(data_set, allowed, policy, places["data-root"], places["vault-root"])
