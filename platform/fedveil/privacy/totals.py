"""What an owner may say of all runs together: statements from the rows that concern one data set."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from fedveil.privacy import statements
from fedveil.privacy.accounting import filters
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import NonPrivate, Release, on_grid
from fedveil.privacy.ledger import GALLERY, Row
from fedveil.privacy.spending import DELTA, History, Picture, fixed_noise, reserved
from fedveil.privacy.statements import Statement

VIEW = "every released global model"
SCHEDULED = "every global model that an accepted client-level schedule released"
"""The view of a client-level total: models of other runs are not in it."""
TRAINED = "every update and every model of the runs with private training"
"""The view of private steps."""
STARTED = "the released model"
"""Who sees what a start has learnt that nobody declared public."""

FORGOTTEN = "whatever left after the state of the vault that was adopted"
"""The view of what a vault no longer knows: an older one went on in its place."""

_CLIENT_ASSUMPTIONS = ("the server adds the noise, keeps it and the coins secret, and forgets both",)
_STEPS_ASSUMPTIONS = ("each owner adds the noise to its own steps, keeps it and the coins secret, and forgets both",)
_STARTS = "no run started from a model that had learnt from these pictures outside the releases counted here"
_NOT_ADAPTIVE = "none was chosen after seeing what an earlier one gave out, or the owner's policy limits the total"


@dataclasses.dataclass(frozen=True)
class Deltas:
    """At which deltas an owner's totals stand, fixed before the first run: every release is converted to them."""

    image: float = DELTA
    client: float = DELTA


def of_history(history: History, deltas: Deltas) -> list[Statement]:
    """Return the composed totals of one data set over all its runs, each at the owner's own delta."""
    found: list[Statement] = []
    rows = history.rows()
    if any(fixed_noise(row) for row in rows):
        fixed = "NOT PRIVATE, the noise of at least one run was fixed (privacy.test_seed)"
        found += statements.price(NonPrivate("image", "anything those runs released", fixed))
    worst = worst_formal(history, deltas.image)
    steps = worst.training()
    image = image_total(worst, deltas.image) if not steps else steps_total(worst, deltas.image)
    found += [image] if image is not None else []
    if image is not None and steps and not worst.local() and all(event.unit == "identity" for event in steps):
        epsilon = filters.people_epsilon(steps, deltas.image)
        meaningful = epsilon <= statements.MEANINGFUL
        found.append(dataclasses.replace(image, unit="identity", epsilon=epsilon, meaningful=meaningful))
    client = client_total(client_schedules(history), deltas.client)
    found += [client] if client is not None else []
    if bare := bare_runs(history):
        one = len(bare) == 1
        reason = f"{len(bare)} run{'' if one else 's'} released models without secret client-level noise"
        found += statements.price(NonPrivate("client", VIEW, reason))
    for none in dict.fromkeys(row.event for row in rows if isinstance(row.event, NonPrivate)):
        if none.view == FORGOTTEN:
            found = [statements.void(one, none.reason) for one in found]
        if none.view == STARTED:
            found = [statements.void(one, none.reason) if "model" in one.view else one for one in found]
        found += statements.price(none)
    return found


def bare_runs(history: History) -> list[str]:
    """Return the runs that released models and reserved no client-level noise, or a fixed one, in order.

    None where no run reserved any: then nothing is said of clients, and nothing has to be taken back.
    """
    rows = history.rows()
    if not client_schedules(history):
        return []
    noisy = {row.run_id for row in reserved(rows) if not fixed_noise(row)}
    return [*dict.fromkeys(row.run_id for row in rows if row.run_id not in noisy and row.note != GALLERY)]


def of_rows(rows: Sequence[Row], deltas: Deltas | None = None) -> list[Statement]:
    """Return the composed totals of rows that all concern one data set."""
    history = History((Picture(tuple(rows)),), tuple((row, 1) for row in reserved(rows)), {})
    return of_history(history, deltas or Deltas())


def worst_formal(history: History, delta: float) -> Picture:
    """Return the picture whose formal releases add up to most, runs of fixed noise left out."""
    formal = (
        dataclasses.replace(one, rows=tuple(row for row in one.rows if not fixed_noise(row)))
        for one in history.pictures
    )
    return max(formal, key=lambda one: filters.image_epsilon(one.local(), one.training(), delta))


def image_total(picture: Picture, delta: float) -> Statement | None:
    """Return the statement of all formal releases of one image; None without any."""
    releases = picture.local()
    if not releases:
        return None
    parts = [statements.price(release)[0] for release in releases]
    pure = all(release.mechanism == "laplace" for release in releases)
    epsilon = statements.local_epsilon([(release, 1) for release in releases], delta)
    said = f"sum over {len(releases)} releases of one image" if pure else (
        f"{len(releases)} releases of one image, composed at this delta"
    )  # fmt: skip
    total = statements.composed(parts, epsilon, 0.0 if pure else delta, said)
    total = dataclasses.replace(total, assumptions=(*total.assumptions, _STARTS))
    if not pure and len(releases) > 1:
        total = dataclasses.replace(total, assumptions=(*total.assumptions, _NOT_ADAPTIVE))
    return total


def steps_total(picture: Picture, delta: float) -> Statement:
    """Return the statement of all private steps of one image, and of all its copies where there are any, together."""
    copies, steps = picture.local(), picture.training()
    epsilon = filters.image_epsilon(copies, steps, delta)
    said, view = f"{len(steps)} schedules of private steps", TRAINED
    assumptions = list(_STEPS_ASSUMPTIONS)
    if copies:
        said = f"{len(copies)} releases of one image and {said}, composed at this delta"
        view = f"the noisy copies, everything computed from them, and {TRAINED}"
        assumptions += [text for one in copies for text in statements.price(one)[0].assumptions]
    adaptive = (_NOT_ADAPTIVE,) if len(copies) + len(steps) > 1 else ()
    exact, limits = statements.arithmetic(all(map(on_grid, copies)) and all(map(on_grid, steps)))
    assumptions = [text for text in assumptions if text != statements.EXACT]
    return Statement(
        unit="image",
        relation="replace-one" if copies else "zero-out",
        view=view,
        mechanism=f"{said} (Renyi)",
        epsilon=epsilon,
        delta=delta,
        guarantee="formal",
        meaningful=epsilon <= statements.MEANINGFUL,
        assumptions=tuple(dict.fromkeys((*assumptions, *exact, _STARTS, *adaptive))),
        not_covered=limits,
    )


def client_schedules(history: History) -> list[Release]:
    """Return the schedules with a guarantee, in the order of the ledger, as events of one client."""
    kept = dataclasses.replace(history, schedules=tuple(e for e in history.schedules if not fixed_noise(e[0])))
    return [event for event in kept.client_events() if isinstance(event, Release)]


def client_total(schedules: Sequence[Release], delta: float) -> Statement | None:
    """Return the statement of reserved schedules together, about the models that they released; None without any."""
    if not schedules:
        return None
    accountant = RdpAccountant(filters.relation_of(schedules), "client")
    for event, count in collections.Counter(schedules).items():
        accountant = accountant.compose(event, count)
    bound = accountant.epsilon(delta)
    adaptive = (_NOT_ADAPTIVE,) if len(schedules) > 1 else ()
    exact, limits = statements.arithmetic(all(on_grid(one) for one in schedules))
    return Statement(
        unit="client",
        relation=accountant.relation,
        view=SCHEDULED,
        mechanism=f"{len(schedules)} reserved schedules ({bound.method})",
        epsilon=bound.upper,
        delta=delta if bound.upper is not None else None,
        guarantee="formal" if bound.upper is not None else "none",
        meaningful=bound.upper is not None and bound.upper <= statements.MEANINGFUL,
        assumptions=(*_CLIENT_ASSUMPTIONS, *exact, _STARTS, *adaptive),
        not_covered=(
            "models of runs without a client-level schedule",
            "the server itself",
            "the operator's log",
            *limits,
        ),
    )
