"""A filter over runs: stop before schedules that were chosen after seeing results cost more than a limit.

At one order, Renyi divergences may be added up although each mechanism was chosen knowing what the earlier ones gave
out, as long as the sum stays below a limit that was fixed beforehand (Feldman and Zrnic, "Individual Privacy Accounting
via a Renyi Filter", NeurIPS 2021, https://arxiv.org/abs/2008.11193). The order must be fixed beforehand too: the best
order of what came to be run depends on results. So the order is the first schedule's, of which nothing was known yet.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np

from fedveil import checks
from fedveil.privacy import events, statements
from fedveil.privacy.accounting import _moments
from fedveil.privacy.accounting.pld import FINAL_GRID, PldAccountant
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import Event, Relation, Unit


def relation_of(schedules: Sequence[Event]) -> Relation:
    """Return the relation in which all schedules can be composed: zero-out unless one was planned for replace-one."""
    mixed = any(getattr(event, "relation", "zero-out") == "replace-one" for event in schedules)
    return "replace-one" if mixed else "zero-out"


def filtered_epsilon(schedules: Sequence[Event], limit: float, delta: float, unit: Unit = "client") -> float:
    """Return the epsilon at `delta` that a filter with this limit finds for schedules in their order.

    Guarantee: if schedules are started only while this is at most `limit`, all that were started are together
    (limit, delta)-DP for one unit, however later ones were chosen. One schedule alone was chosen before anything was
    known of it, so where it does not fit this way the accountant of record has the last word.

    Args:
        schedules: one event per schedule; the first decides the order, the rest may come in any order.
        limit: the largest epsilon, nats, fixed beforehand.
        delta: fixed beforehand.
        unit: whose guarantee it is.

    Returns:
        Nats; 0 for no schedule, `math.inf` where one has no guarantee.

    >>> from fedveil.privacy.events import Gaussian
    >>> runs = [Gaussian(4.0)] * 4
    >>> [round(filtered_epsilon(runs[:n], 2.5, 1e-5), 2) for n in (1, 3, 4)]
    [1.35, 1.9, 2.18]
    """
    checks.positive(limit=limit, delta=delta)
    if not schedules:
        return 0.0
    if any(isinstance(event, events.NonPrivate) for event in schedules):
        return math.inf
    relation = relation_of(schedules)
    before = RdpAccountant(relation_of(schedules[:1]), unit)
    found = _renyi(schedules, before, RdpAccountant(relation, unit), limit, delta)
    if len(schedules) == 1 and found > limit:
        found = min(found, PldAccountant(relation, unit, grid=FINAL_GRID).compose(schedules[0]).upper(delta))
    return found


def filtered_local(releases: Sequence[events.LocalRelease], limit: float, delta: float) -> float:
    """Return the image-level epsilon at `delta` that a filter with this limit finds for local releases in their order.

    Guarantee: if releases are made only while this is at most `limit`, all that were made are together
    (limit, delta)-DP for any one image, however later ones were chosen. Pure losses add whatever was seen between;
    squares of Gaussian ones add below a fixed limit (Smith and Thakurta, "Fully Adaptive Composition for Gaussian
    Differential Privacy", 2022, https://arxiv.org/abs/2210.17520); a mixture goes through the Renyi filter.

    >>> from fedveil.privacy.events import LocalRelease
    >>> filtered_local([LocalRelease("laplace", 8.0), LocalRelease("laplace", 5.0)], 20.0, 1e-5)
    13.0
    """
    checks.positive(limit=limit, delta=delta)
    if len({release.mechanism for release in releases}) < 2:
        return statements.local_epsilon([(release, 1) for release in releases], delta)
    accountant = RdpAccountant("replace-one", "image")
    return _renyi(releases, accountant, accountant, limit, delta)


def filtered_images(
    releases: Sequence[events.LocalRelease], steps: Sequence[events.Release], limit: float, delta: float
) -> float:
    """Return the image-level epsilon at `delta` that a filter with this limit finds for copies and private steps.

    Guarantee: as `filtered_local` for one image, `steps` of private training included. Where there are both, everything
    is priced for an image replaced by any other; private steps alone for one replaced by nothing. Whether a copy or a
    schedule was first is not asked: the larger total of the two orders counts.

    >>> from fedveil.privacy.events import Gaussian, PoissonSampled, Release, Repeated
    >>> steps = Release("image", "zero-out", "updates", Repeated(PoissonSampled(0.1, Gaussian(2.0)), 100))
    >>> round(filtered_images([], [steps], 8.0, 1e-5), 2)
    3.95
    """
    if not steps:
        return filtered_local(releases, limit, delta)
    if not releases:
        return filtered_epsilon(steps, limit, delta, "image")
    checks.positive(limit=limit, delta=delta)
    accountant = RdpAccountant("replace-one", "image")
    alone = RdpAccountant("zero-out", "image")  # by which the order was chosen if a schedule was first
    return max(
        _renyi([*releases, *steps], accountant, accountant, limit, delta),
        _renyi([*steps, *releases], alone, accountant, limit, delta),
    )


def image_epsilon(
    releases: Sequence[events.LocalRelease], steps: Sequence[events.Release], delta: float
) -> float:
    """Return the epsilon at one delta of copies and private steps of one image together, nats.

    Nothing here may depend on earlier outputs but the noise; for what was chosen later there is `filtered_images`.
    """
    if not steps:
        return statements.local_epsilon([(release, 1) for release in releases], delta)
    accountant = RdpAccountant("replace-one" if releases else "zero-out", "image")
    everything: list[Event] = [*releases, *steps]
    for event, count in collections.Counter(everything).items():
        accountant = accountant.compose(event, count)
    return accountant.upper(delta)


def people_epsilon(steps: Sequence[events.Release], delta: float) -> float:
    """Return the epsilon at one delta of private steps whose unit is a person, for one person replaced by nothing."""
    accountant = RdpAccountant("zero-out", "identity")
    for event, count in collections.Counter(steps).items():
        accountant = accountant.compose(event, count)
    return accountant.upper(delta)


def _renyi(
    schedules: Sequence[Event], before: RdpAccountant, total: RdpAccountant, limit: float, delta: float
) -> float:
    """Return the total at the order at which the first schedule alone fits most often into the limit."""
    first = before.compose(schedules[0])
    for event, count in collections.Counter(schedules).items():
        total = total.compose(event, count)
    added = _moments.conversion(delta)
    with np.errstate(divide="ignore", invalid="ignore"):
        room = (limit - added) / first.divergences()  # how often the first schedule fits, at each order
    chosen = int(np.nanargmax(np.where(np.isfinite(room), room, -np.inf)))
    return max(0.0, float(total.divergences()[chosen] + added[chosen]))


def of_group(event: Event, size: int) -> Event:
    """Return what a release costs a group of `size` clients that take part together, as an event of one.

    Their sum moves by at most `size` clipping norms, and at least one of them is in a Poisson sample with probability
    1 - (1 - rate)^size; a mixture of smaller shifts is dominated by the largest.

    >>> of_group(events.PoissonSampled(0.5, events.Gaussian(3.0)), 2)
    PoissonSampled(rate=0.75, event=Gaussian(noise_multiplier=1.5))
    """
    events.whole_count(size)
    if size == 1:
        return event
    match event:
        case events.Gaussian():
            return events.Gaussian(event.noise_multiplier / size)
        case events.Laplace():
            return events.Laplace(event.noise_multiplier / size)
        case events.PoissonSampled():
            return events.PoissonSampled(1.0 - (1.0 - event.rate) ** size, of_group(event.event, size))
        case events.FixedSize(stateless=False):  # no amplification to lose
            return events.FixedSize(event.sampled, event.population, of_group(event.event, size))
        case events.Repeated():
            return events.Repeated(of_group(event.event, size), event.count)
        case events.Composed():
            return events.Composed(tuple(of_group(one, size) for one in event.events))
        case events.Release():
            turns = _of_turns(event.event, size) if dict(event.detail).get("bands", 1) != 1 else None
            inner = of_group(event.event, size) if turns is None else turns
            return events.Release(event.unit, event.relation, event.view, inner, event.detail)
        case events.PostProcessing() | events.NonPrivate():
            return event
    return events.NonPrivate("client", "every released global model", f"no bound for {size} clients that overlap")


def _of_turns(event: Event, size: int) -> events.Repeated | None:
    """Return what sampled rounds under banded noise cost `size` clients, who may be in different groups; else None.

    Columns of two groups share rows, so their rounds cannot be put together in pairs. Noise of variance s is a sum of
    `size` independent parts of variance s / size, and each client is hidden by a part of its own: `size` times as many
    sampled releases with noise divided by the root of `size`. Without sampling both ways come to the same.
    """
    match event:
        case events.PoissonSampled(rate=rate, event=events.Gaussian(noise_multiplier=noise)):
            alone = events.PoissonSampled(rate, events.Gaussian(noise / math.sqrt(size)))
            return events.Repeated(alone, size)
        case events.Repeated(event=events.PoissonSampled() as one):
            found = _of_turns(one, size)
            return events.Repeated(found.event, found.count * event.count) if found is not None else None
    return None
