"""What a run may claim: one derivation, from its ledger's rows and the public configuration, for every door.

result.json, the terminal, `fedveil ledger`, sweeps, audits, galleries and MLflow print what this returns. Nothing else
turns a run's events into statements. What is planned is priced as the rows that a whole run would write.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence

from fedveil import checks
from fedveil.federation import groups, planning, private_steps, synthetic, warm_start
from fedveil.federation.federation import Federation
from fedveil.privacy import events, inherited, statements, totals
from fedveil.privacy.accounting.base import Bound
from fedveil.privacy.accounting.pld import FINAL_GRID, PldAccountant
from fedveil.privacy.events import Event, LocalRelease, NonPrivate, Relation, Release, Synthetic, Unit
from fedveil.privacy.ledger import Row
from fedveil.privacy.statements import Statement

NOT_PRIVATE = "NOT PRIVATE: fixed noise (privacy.test_seed)"
"""What a row's note says of a run whose noise was fixed."""

_CLIENT_ASSUMPTIONS: tuple[str, ...] = (
    "the server adds the noise, keeps it and the coins secret, and forgets both",
    "the registry, its size and all settings are public",
    "the schedule was fixed before the run",
)
_CLIENT_NOT_COVERED = (
    "the server itself, which sees every update before clipping",
    "the operator's log: who took part, when, and what failed",
    "each person's share of a client that holds many people",
)
_BANDED_ASSUMPTIONS = (
    "clients take turns in {bands} groups by their public place in the registry, none of them out of turn",
    "noise of the last {before} rounds is in the server's memory alone",
)


_TRAINING_ASSUMPTIONS = (
    "each owner adds the noise to its own steps, keeps it and the coins secret, and forgets both",
    "no other owner holds the same {unit}",
    "all settings are public, and the schedule was fixed before the run",
)
_TRAINING_NOT_COVERED = (
    "pictures that are enrolled with the model, or shown to it later",
    "how long a client computes, and that it failed",
    "a picture that an owner stored twice, or a person under two names: two units",
)


@dataclasses.dataclass(frozen=True)
class Claims:
    """What may be said of a run.

    Attributes:
        statements: one per unit and view, the client level first.
        noise_source: "operating system", "test seed" or "none".
        private: noise from the operating system, and a meaningful statement for every release.
    """

    statements: tuple[Statement, ...]
    noise_source: str
    private: bool


def note_of(federation: Federation) -> str:
    """Return what every row of a run says to people: nothing, or that its noise is fixed."""
    return "" if federation.settings.privacy.test_seed is None else NOT_PRIVATE


def tells(federation: Federation, event: Event) -> bool:
    """Return whether an image's own event belongs among a run's rows: not that of a synthetic one without noise.

    Nobody is on such an image. What its generator told of people is a row of its own (`events.Synthetic`).
    """
    nobody = synthetic.uses(federation.settings)[:1] == ("data",) and not isinstance(event, LocalRelease)
    return federation.counts(event) and not nobody


def of_run(federation: Federation, rows: Iterable[Row], grid: float = FINAL_GRID) -> Claims:
    """Return what the rows of a run's ledger support; an interrupted run claims what it has released so far.

    Args:
        federation: of the run's configuration.
        rows: of this run in the coordinator's ledger.
        grid: of the client level's accountant, nats: `FINAL_GRID` for numbers that are signed.
    """
    spent, fixed = _counted(rows)
    return _derived(federation, spent, fixed, grid)


def claimed(unit: str, found: Iterable[Statement]) -> tuple[float | None, str]:
    """Return the largest epsilon that is claimed for a unit, or None with the reason why nothing is.

    >>> claimed("image", [])
    (None, 'no statement of this unit')
    """
    own = [one for one in found if one.unit == unit]
    for one in own:
        if one.epsilon is None:
            return None, one.mechanism
    return max((one.epsilon or 0.0 for one in own), default=None), "" if own else "no statement of this unit"


def planned(
    federation: Federation, event: Event, grid: float = FINAL_GRID, learnt: Iterable[Synthetic] | None = None
) -> Claims:
    """Return what a whole run of this configuration would claim.

    Args:
        federation: of a planned configuration.
        event: the release of one image (`Federation.release_event`).
        grid: as in `of_run`.
        learnt: what synthetic faces that it reads were made from, where it is known; None: their files are asked.
    """
    spent: collections.Counter[Event] = collections.Counter()
    spent.update(synthetic.learnt(federation.settings) if learnt is None else learnt)
    if tells(federation, event):
        spent[event] += 1
    if federation.private is not None:
        spent.update(federation.private_rounds)
    if federation.settings.privacy.client is not None:
        spent.update(federation.release_of(number) for number in range(1, federation.total_rounds + 1))
    return _derived(federation, spent, False, grid)


def _counted(rows: Iterable[Row]) -> tuple[collections.Counter[Event], bool]:
    """Return how often every event happened, and whether noise was fixed.

    Copies that are kept are one release of their mechanism in every attempt; another mechanism drew other copies, even
    where its event is equal.
    """
    spent: collections.Counter[Event] = collections.Counter()
    kept: set[tuple[Event, str]] = set()
    fixed = False
    for row in rows:
        fixed |= "NOT PRIVATE" in row.note
        if row.status != "spent":
            continue
        event, draw = row.event, (row.event, row.mechanism)
        if isinstance(event, LocalRelease):
            if draw in kept:
                continue
            kept |= {draw} if event.releases == 1 else set()
        spent[event] += 1
    return spent, fixed


def _derived(federation: Federation, spent: Mapping[Event, int], fixed: bool, grid: float) -> Claims:
    found: list[Statement] = []
    for unit in statements.UNITS:
        rounds = [(e, count) for e, count in spent.items() if isinstance(e, Release) and e.unit == unit]
        if rounds and unit == "client":
            found.append(_client(federation, rounds, grid))
        elif rounds:
            found += _training(federation, rounds, grid)
    learnt = [event for event in spent if isinstance(event, Synthetic)]
    leaks = [event for event in spent if isinstance(event, NonPrivate) and event.view == warm_start.VIEW]
    leaks += [leak for leak in map(inherited.leak, learnt) if leak is not None]
    known = {event.use for event in learnt}
    leaks += [inherited.unknown(use) for use in synthetic.uses(federation.settings) if use not in known]
    start = warm_start.leak(federation.settings)
    if start is not None and start not in leaks:
        leaks.append(start)
    found += statements.together([(event, count) for event, count in spent.items() if isinstance(event, LocalRelease)])
    for event in spent:
        if isinstance(event, NonPrivate) and event not in leaks:
            found += statements.price(event)
    found = inherited.applied(found, learnt)
    # What a start has learnt is in every model that follows.
    for leak in leaks:
        found = [statements.void(one, leak.reason) if "model" in one.view else one for one in found]
    found += [one for leak in leaks for one in statements.price(leak)]
    found = sorted(dict.fromkeys(found), key=lambda one: statements.UNITS.index(one.unit))
    # What is inherited stands for the units of the generator's training, which its own run has counted.
    found = [one if one.mechanism.startswith(statements.NOBODY) else _within_ceiling(federation, one) for one in found]
    fixed = fixed or federation.settings.privacy.test_seed is not None
    if fixed:
        found = [statements.void(one, statements.FIXED_NOISE) for one in found]
    formal = any(one.epsilon is not None for one in found)
    source = "test seed" if fixed else "operating system" if formal else "none"
    return Claims(tuple(found), source, not fixed and statements.all_meaningful(found))


def _within_ceiling(federation: Federation, one: Statement) -> Statement:
    """Return the statement, not meaningful where its delta is above what the public number of units allows."""
    units = federation.units(one.unit)
    ceiling = planning.largest_delta(units)
    if one.delta is None or one.delta <= ceiling:
        return one
    above = f"delta {one.delta:g} is above {ceiling:g}, the largest that {units} units allow"
    if units is None:
        above = f"nothing public bounds the number of units, so delta {one.delta:g} is not known to be small enough"
    if (raised := federation.settings.policy.max_delta) is not None:
        above += f" (accepted by policy.max_delta={raised:g})"
    return dataclasses.replace(one, meaningful=False, not_covered=(*one.not_covered, above))


@functools.lru_cache(maxsize=8)
def _accountant(relation: Relation, unit: Unit, grid: float) -> PldAccountant:
    """Return an empty accountant; those composed from it share what they remember of single rounds."""
    return PldAccountant(relation, unit, grid=grid)


def client_epsilon(federation: Federation, rounds: Iterable[tuple[Event, int]], grid: float) -> float:
    """Return the upper end of the client level's epsilon after (event, count) noisy rounds; inf without a guarantee."""
    return max(bill.upper(_delta(federation)) for bill in _bills(federation, rounds, grid))


def _bills(federation: Federation, rounds: Iterable[tuple[Event, int]], grid: float) -> list[PldAccountant]:
    """Return what noisy rounds cost a client of each group; of one group, everybody's, for independent noise."""
    return [_composed(federation.relation, "client", bill, grid) for bill in groups.paid_by_one(rounds)]


def noisy_epsilon(federation: Federation, unit: str, rounds: Iterable[tuple[Event, int]], grid: float) -> float:
    """Return the upper end after (event, count) noisy rounds for the unit that their noise protects."""
    if unit == "client":
        return client_epsilon(federation, rounds, grid)
    found = training_bound(federation, rounds, grid).upper
    return math.inf if found is None else found


def training_bound(federation: Federation, rounds: Iterable[tuple[Event, int]], grid: float) -> Bound:
    """Return what is proven of the private steps of (event, count) rounds for one unit of one client.

    Raises:
        fedveil.checks.UserError: rounds of a run whose configuration asks for no private training.
    """
    budget = federation.private
    if budget is None:
        raise checks.UserError(
            "The ledger has private steps of a run whose configuration asks for none: they are another run's. Restore "
            "the run's folder from a backup."
        )
    return _composed("zero-out", budget.unit, rounds, grid).epsilon(budget.delta or 0.0)


def _composed(
    relation: Relation, unit: Unit, rounds: Iterable[tuple[Event, int]], grid: float
) -> PldAccountant:
    accountant = _accountant(relation, unit, grid)
    for event, count in rounds:
        accountant = accountant.compose(event, count)
    return accountant


def _delta(federation: Federation) -> float:
    budget = federation.settings.privacy.client
    return (budget.delta if budget is not None else None) or 0.0


def _client(federation: Federation, rounds: Sequence[tuple[Release, int]], grid: float) -> Statement:
    turns, delta = federation.groups, _delta(federation)
    cohort = turns.cohort(federation.settings.train.cohort)
    bills = _bills(federation, rounds, grid)
    worst = max(bills, key=lambda bill: bill.upper(delta)) if len(bills) > 1 else bills[0]
    bound = worst.epsilon(delta)
    epsilon, count = bound.upper, sum(times for _, times in rounds)
    exact, limits = statements.arithmetic(all(events.on_grid(event) for event, _ in rounds))
    drawn = f"secret Poisson cohorts of rate {cohort.rate:g}"
    if cohort.kind == "fixed":
        drawn = "fixed cohorts, not amplified"
    noise, assumptions = "Gaussian noise", _CLIENT_ASSUMPTIONS
    if turns.bands > 1:
        own = max(sum(times for _, times in bill) for bill in groups.paid_by_one(rounds))
        noise = f"banded noise over {turns.bands} rounds (matrix factorisation)"
        drawn += f" of one of {turns.bands} public groups, at most {own} rounds one client's"
        more = (text.format(bands=turns.bands, before=turns.bands - 1) for text in _BANDED_ASSUMPTIONS)
        assumptions = (*assumptions, *more)
    return Statement(
        unit="client",
        relation=federation.relation,
        view=totals.VIEW,
        mechanism=f"{noise} on the sum of clipped updates in {count} rounds, {drawn} ({bound.method})",
        epsilon=epsilon,
        delta=delta if epsilon is not None else None,
        guarantee="formal" if epsilon is not None else "none",
        meaningful=epsilon is not None and epsilon <= statements.MEANINGFUL,
        assumptions=(*assumptions, *exact),
        not_covered=(*_CLIENT_NOT_COVERED, *limits),
    )


def _training(federation: Federation, rounds: Sequence[tuple[Release, int]], grid: float) -> list[Statement]:
    """Return the statements of private steps: of each client by itself, so of all, because no two hold one unit.

    A picture less makes a person another one, so a guarantee for people is one for pictures at the price of a person
    who is replaced (`privacy.accounting.base.Accountant`).
    """
    bound = training_bound(federation, rounds, grid)
    budget = federation.private
    assert budget is not None  # training_bound
    delta = budget.delta or 0.0
    epsilon, count = bound.upper, sum(times for _, times in rounds)
    steps = federation.settings.train.local.steps or 0
    exact, limits = statements.arithmetic(all(events.on_grid(event) for event, _ in rounds))
    held: tuple[str, ...] = ()
    if budget.unit == "identity":
        cap = federation.settings.partition.max_images_per_identity
        held = (f"at most {cap} images of one person are used (enforced), all of one owner",)
    own = Statement(
        unit=budget.unit,
        relation="zero-out",
        view=private_steps.VIEW,
        mechanism=(
            f"Gaussian noise on the sum of clipped gradients in {count * steps} local steps of {count} rounds, secret "
            f"Poisson batches of rate {budget.sampling_rate:g} ({bound.method})"
        ),
        epsilon=epsilon,
        delta=delta if epsilon is not None else None,
        guarantee="formal" if epsilon is not None else "none",
        meaningful=epsilon is not None and epsilon <= statements.MEANINGFUL,
        assumptions=(*(text.format(unit=_NOUNS[budget.unit]) for text in _TRAINING_ASSUMPTIONS), *exact, *held),
        not_covered=(*_TRAINING_NOT_COVERED, *limits),
    )
    if budget.unit == "identity":
        upper = _composed("zero-out", "image", rounds, grid).epsilon(delta).upper
        meaningful = upper is not None and upper <= statements.MEANINGFUL
        return [own, dataclasses.replace(own, unit="image", epsilon=upper, meaningful=meaningful)]
    return [own]


_NOUNS = {"image": "picture", "identity": "person"}
