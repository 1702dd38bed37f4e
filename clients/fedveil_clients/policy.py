"""The owner's floor: refuse a run weaker than local policy, and say why. The coordinator cannot lower it.

The floor comes from the node's own configuration (`node`) when it has one. It is a safety rail, not a proof: whoever
can replace the code at the owner can replace the policy.
"""

from __future__ import annotations

import functools

from fedveil.configuration.schema import Policy
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.accounting import filters
from fedveil.privacy.events import Event
from fedveil.privacy.spending import History, image_epsilon
from fedveil_clients.node import Node as Node  # whose limits these are; found here, too
from fedveil_clients.node import node_of as node_of


class PolicyRefusal(Exception):
    """The owner refuses to take part; the message is the reason and may be sent to the coordinator."""


def check(federation: Federation, node: Node, event: Event) -> None:
    """Raise `PolicyRefusal` unless the run respects the owner's floor.

    Args:
        federation: of the run's configuration as the coordinator sent it.
        node: the owner's own settings.
        event: what one image's use in this run would release; the planned one, before anything exists.
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

    A node with its own data set, pictures and vault speaks for itself alone.
    """
    share = f"{federation.data_id}/"
    if not node.simulated or node.data_set != share + client_id:
        return (node.data_set,)
    return tuple(share + name for name in federation.registry)
