"""The owner's floor: refuse a run weaker than local policy, and say why. The coordinator cannot lower it.

The floor comes from the node's own configuration (`node`) when it has one. It is a safety rail, not a proof: whoever
can replace the code at the owner can replace the policy.
"""

from __future__ import annotations

import functools
import math

from fedveil import checks
from fedveil.configuration.schema import Policy
from fedveil.federation import generating, planning
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.accounting import filters
from fedveil.privacy.events import Event, LocalRelease, NonPrivate, Release
from fedveil.privacy.ledger import everybody_of
from fedveil.privacy.spending import History
from fedveil_clients.node import Node as Node  # whose limits these are; found here, too
from fedveil_clients.node import node_of as node_of


class PolicyRefusal(Exception):
    """The owner refuses to take part; the message is the reason in full, for the owner.

    `told` is what a coordinator may read of it: what the instruction says and what the owner's limits are, and no
    number of the owner's data or ledger. Unless it is given, that is no more than that there is a refusal.
    """

    def __init__(self, reason: str, told: str = "the owner refuses; its log says why") -> None:
        super().__init__(reason)
        self.told = told

    @classmethod
    def of_instruction(cls, reason: str) -> PolicyRefusal:
        """Return a refusal whose reason speaks of the instruction and the owner's limits alone, and may be told."""
        return cls(reason, reason)


def check(federation: Federation, node: Node, event: Event, training: bool = True) -> None:
    """Raise `PolicyRefusal` unless the run respects the owner's floor.

    Two pairs (epsilon, delta) cannot be compared by epsilon alone: what the run offers is converted to the owner's own
    delta first, or to its pure epsilon.

    Args:
        federation: of the run's configuration as the coordinator sent it.
        node: the owner's own settings.
        event: what one image's use in this run would release; the planned one, before anything exists.
        training: nothing but updates leaves, so private steps bound what is told of an image; not so for a gallery.
    """
    settings = federation.settings
    policy, name = node.policy or settings.policy, settings.method
    if policy.floor is not None and name not in policy.floor:
        raise PolicyRefusal.of_instruction(
            f"the owner's floor accepts {list(policy.floor)}, this run has {name!r}"
        )
    if settings.privacy.test_seed is not None and not node.allow_test_seed:
        raise PolicyRefusal.of_instruction(
            "the run fixes its noise (privacy.test_seed) and this node does not allow that"
        )
    if federation.generator is not None and not generating.has_budget(settings) and not node.shares_generators:
        raise PolicyRefusal.of_instruction(
            f"the run trains generator={settings.generator.name} without any budget, which hands out what the owner's "
            "faces look like, and this node does not allow that (allow-shared-generator)"
        )
    for unit, (setting, delta) in planning.deltas(settings).items():
        try:
            planning.check_delta(setting, delta, federation.units(unit), unit, policy.max_delta)
        except checks.UserError as error:  # of public numbers
            raise PolicyRefusal.of_instruction(str(error)) from error
    if policy.max_epsilon is None:
        return
    offered, delta = _offered(federation, event, policy, training)
    if offered > policy.max_epsilon:
        shown = "none (infinite)" if math.isinf(offered) else f"{offered:.6g} at delta {delta:g}"
        raise PolicyRefusal.of_instruction(
            f"the owner accepts an image-level epsilon of at most {policy.max_epsilon:g} at delta "
            f"{policy.image_delta:g}; this run's is {shown}"
        )


def check_turn(federation: Federation, client_id: str, number: int) -> None:
    """Raise `PolicyRefusal` unless it is the turn of the client's group (`federation.groups`).

    The guarantee of banded noise is that of clients whose rounds are as far apart as the bands; who is asked out of
    turn would pay more than the run claims.
    """
    turns = federation.groups
    own, asked = turns.of_place(federation.registry.index(client_id)), turns.of_round(number)
    if own != asked:
        raise PolicyRefusal.of_instruction(
            f"round {number} is the turn of group {asked + 1} of {turns.bands}, and client {client_id} is in group "
            f"{own + 1}: noise that is banded over rounds (privacy.client.bands) hides no client out of turn"
        )


def check_count(federation: Federation, node: Node, event: Event, images: int, people: int) -> None:
    """Raise `PolicyRefusal` unless delta is small enough for as many images, or people, as the owner has.

    The number stays with the owner: that there are too many for this delta is all that is told.
    """
    steps = federation.private
    if steps is not None and steps.noise_multiplier is not None:
        units = people if steps.unit == "identity" else images
        _few_enough(federation, node, f"privacy.{steps.unit}.delta", steps.delta or 0.0, units, steps.unit)
    if isinstance(event, LocalRelease) and event.mechanism == "gaussian":
        _few_enough(federation, node, "protection.delta", event.delta, images, "image")


def _few_enough(federation: Federation, node: Node, setting: str, delta: float, units: int, unit: str) -> None:
    if units == 0:  # nobody is promised anything
        return
    policy = node.policy or federation.settings.policy
    try:
        planning.check_delta(setting, delta, units, unit, policy.max_delta)
    except checks.UserError as error:
        raise PolicyRefusal(
            str(error), f"{setting} is too large for the owner's number of {_MANY[unit]}; lower it"
        ) from error


_MANY = {"image": "images", "identity": "people"}


def _offered(federation: Federation, event: Event, policy: Policy, training: bool) -> tuple[float, float]:
    """Return (epsilon, delta) of one image in the whole run, at the owner's delta where it is not pure.

    Where noisy copies are read, theirs: what is computed from them tells no more. Else that of private steps.
    """
    if isinstance(event, LocalRelease):
        delta = policy.image_delta if event.mechanism == "gaussian" else 0.0
        return statements.local_epsilon([(event, 1)], policy.image_delta), delta
    if not training or federation.private is None or isinstance(federation.private_schedule, NonPrivate):
        return math.inf, 0.0
    delta = policy.image_delta
    return _filtered((), (federation.private_schedule,), policy.max_epsilon or 1.0, delta), delta


def check_again(policy: Policy, run: History) -> None:
    """Raise `PolicyRefusal` unless a run stays within the owner's limit on one run when a round is asked again.

    Args:
        policy: the owner's.
        run: what the data set's ledger has of this run, the round again included.
    """
    limit, delta = policy.max_epsilon, policy.image_delta
    if limit is not None and _image(run, limit, delta) > limit:
        raise PolicyRefusal.of_instruction(
            f"the owner accepts an image-level epsilon of at most {limit:g} at delta {delta:g} of one run, and a round "
            "that is asked again would make it more"
        )


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
            rule = f"the owner accepts an image-level epsilon of at most {limit:g} at delta {delta:g} over all runs"
            raise PolicyRefusal(
                f"{rule}; {_shown(spent)} is spent and this run would make it {_shown(total)}. Lower the budget, read "
                "an earlier mechanism's copies again, or raise max-total-epsilon at the node",
                f"{rule}, and this run would make it more",
            )
    limit = policy.max_client_epsilon
    if limit is None:
        return
    delta = policy.client_delta
    if len(after.schedules) <= len(before.schedules):  # what earlier runs reserved covers nothing of this one
        raise PolicyRefusal.of_instruction(
            f"the owner accepts a client-level epsilon of at most {limit:g} over all runs and this run has no "
            "client-level guarantee; set privacy.client.epsilon"
        )
    spent, total = (_client(tuple(history.client_events()), limit, delta) for history in (before, after))
    if total > limit:
        rule = f"the owner accepts a client-level epsilon of at most {limit:g} at delta {delta:g} over all schedules"
        raise PolicyRefusal(
            f"{rule}; {_shown(spent)} is reserved and this run would make it {_shown(total)}. Plan more noise or fewer "
            "rounds, or raise max-client-epsilon at the node",
            f"{rule}, and this run would make it more",
        )


def used(policy: Policy, history: History) -> dict[str, tuple[float, float, float]]:
    """Return limit -> (its value, its delta, what is used of it), nats, as `check_runs` counts; inf for no guarantee.

    Args:
        policy: the owner's.
        history: what concerns one data set.
    """
    found = {}
    if policy.max_total_epsilon is not None:
        limit, delta = policy.max_total_epsilon, policy.image_delta
        found["max-total-epsilon"] = limit, delta, _image(history, limit, delta)
    if policy.max_client_epsilon is not None:
        limit, delta = policy.max_client_epsilon, policy.client_delta
        found["max-client-epsilon"] = limit, delta, _client(tuple(history.client_events()), limit, delta)
    return found


def _image(history: History, limit: float, delta: float) -> float:
    """Return what the filter finds for the worst picture; inf where something left without a guarantee."""
    if any(picture.unprotected for picture in history.pictures):
        return math.inf
    return max(_filtered(tuple(one.local()), tuple(one.training()), limit, delta) for one in history.pictures)


@functools.lru_cache(maxsize=256)
def _filtered(
    copies: tuple[LocalRelease, ...], steps: tuple[Release, ...], limit: float, delta: float
) -> float:
    return filters.filtered_images(copies, steps, limit, delta)


@functools.lru_cache(maxsize=256)
def _client(schedules: tuple[Event, ...], limit: float, delta: float) -> float:
    return filters.filtered_epsilon(schedules, limit, delta)


def _shown(epsilon: float) -> str:
    return "no finite amount (a run without any guarantee)" if epsilon == float("inf") else f"{epsilon:.6g}"


def everybody(federation: Federation, client_id: str, node: Node) -> str | None:
    """Return the subject that stands for all clients when this one accepts: a simulation has one vault for all.

    A node with its own data set, pictures and vault speaks for itself alone: None.
    """
    if not node.simulated:
        return None
    share = f"{federation.data_id}/{client_id}"
    return everybody_of(share) if node.data_set == share else None
