"""Public groups of clients that take turns, so that one client's rounds are as far apart as banded noise needs.

With b bands (`privacy.client.bands`) client number p of the registry is in group p mod b, and round t asks group
(t - 1) mod b alone. Both are public and known on both sides: a client's rounds are b apart by construction, whatever
was interrupted. A group is small, so its clients' coins have b times the rate: a round expects as many clients as
before, and a client is asked as often.

What a round costs one client (`privacy.banded` has the proof): for a client of the round's group one release sampled at
the group's rate; nothing for others. Over a run a client pays for its own group's rounds, so the largest group's count
bounds every client. Fixed cohorts, drawn within the group, are not amplified: a client is taken to be in all of its
group's rounds, and another in its place moves each of them by 2C. No bound is known here for groups that are private,
for rounds asked out of turn, or for clients who choose when they come.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from fedveil import checks
from fedveil.configuration.schema import Cohort, Config
from fedveil.privacy.events import Event, Release

GROUP = "group"
"""Which group a round's release concerns, from 0, in the release's detail; without it, every client."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """How clients take turns; one group of everybody for independent noise.

    Attributes:
        bands: b, the number of groups.

    >>> turns = Groups(4)
    >>> turns.of_round(1), turns.of_round(6), turns.of_place(5), turns.rounds_of_one(10)
    (0, 1, 1, 3)
    """

    bands: int

    def of_round(self, number: int) -> int:
        """Return the group that a round asks; rounds count from 1 over all stages."""
        return (number - 1) % self.bands

    def of_place(self, place: int) -> int:
        """Return the group of the client at a place of the registry, from 0."""
        return place % self.bands

    def rounds_of_one(self, rounds: int) -> int:
        """Return in how many of a run's rounds one client can take part at most."""
        return -(-rounds // self.bands)

    def size(self, clients: int, group: int = 0) -> int:
        """Return how many of the registry's clients are in a group; the first is the largest."""
        return len(range(group, clients, self.bands))

    def cohort(self, cohort: Cohort) -> Cohort:
        """Return the law of a round's cohort within its group: b times the rate, at most 1; the same size."""
        if cohort.kind == "fixed" or self.bands == 1:
            return cohort
        return dataclasses.replace(cohort, rate=min(1.0, cohort.rate * self.bands))


def of(settings: Config) -> Groups:
    """Return how the clients of a configuration take turns."""
    budget = settings.privacy.client
    return Groups((budget.bands if budget is not None else None) or 1)


def check(settings: Config) -> None:
    """Refuse groups that cannot be as the guarantee needs them.

    Raises:
        fedveil.checks.UserError: naming the setting and the remedy.
    """
    budget, train = settings.privacy.client, settings.train
    bands = of(settings).bands
    if budget is None or bands == 1:
        return
    if budget.quantile is not None:
        raise checks.UserError(
            f"privacy.client.bands={bands} needs one clipping norm in all rounds: noise of earlier rounds is taken off "
            "again at the scale it had. Leave out privacy.client.quantile, or the bands."
        )
    if settings.privacy.noise != "real":
        raise checks.UserError(
            f"privacy.client.bands={bands} takes noise of earlier rounds off in parts, and these are on no grid: "
            f"privacy.noise={settings.privacy.noise} would claim what does not hold. Set privacy.noise=real, or leave "
            "out the bands."
        )
    cohort, clients = train.cohort, train.clients
    if bands > clients:
        raise checks.UserError(
            f"privacy.client.bands={bands} deals train.clients={clients} to more groups than there are clients."
        )
    if cohort.kind == "poisson" and cohort.rate * bands > 1 + 1e-12:
        raise checks.UserError(
            f"privacy.client.bands={bands} asks one group of {bands} in each round, at {bands} times "
            f"train.cohort.rate={cohort.rate:g}, which is above 1: lower the bands to at most "
            f"{int(1 / cohort.rate * (1 + 1e-12))}, or the rate."
        )
    smallest = clients // bands
    if cohort.kind == "fixed" and (cohort.size or 0) > smallest:
        raise checks.UserError(
            f"privacy.client.bands={bands} leaves {smallest} clients in a group, and train.cohort.size={cohort.size} "
            "are asked in each round: lower the bands or the size."
        )


def of_release(event: Event) -> int | None:
    """Return the group that a round's release concerns; None for everybody."""
    found = dict(event.detail).get(GROUP) if isinstance(event, Release) else None
    return int(found) if found is not None else None


def paid_by_one(rounds: Iterable[tuple[Event, int]]) -> list[Sequence[tuple[Event, int]]]:
    """Return what one client pays of (event, count) rounds, for a client of each group; equal bills once.

    Rounds without a group are paid by everybody.
    """
    together: dict[int | None, collections.Counter[Event]] = {}
    for event, count in rounds:
        together.setdefault(of_release(event), collections.Counter())[event] += count
    everybody = tuple(together.pop(None, collections.Counter()).items())
    if not together:
        return [everybody]
    bills: dict[object, Sequence[tuple[Event, int]]] = {}
    for counted in together.values():
        own: collections.Counter[Event] = collections.Counter()
        for event, count in counted.items():
            assert isinstance(event, Release)
            own[event.event] += count
        bills.setdefault(frozenset(own.items()), (*everybody, *counted.items()))
    return [*bills.values()]
