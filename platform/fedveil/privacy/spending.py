"""What one data set has spent over all runs, whatever it was called and whoever else held its pictures meanwhile.

Image level: a picture pays for every mechanism that any data set holding it has spent; the data set's total is that of
its worst picture. Client level: a data set pays for every schedule that it, or a data set sharing a picture with it,
has reserved. Where a ledger does not know who holds which picture, the larger total is taken.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from fedveil.privacy import statements
from fedveil.privacy.accounting import filters
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import Event, LocalRelease, NonPrivate, Release
from fedveil.privacy.ledger import Row, deal_of
from fedveil.privacy.statements import Statement

_DELTA = 1e-5  # orders the clients of a deal; never shown


def fixed_noise(row: Row) -> bool:
    """Return whether a row is of a run whose noise was fixed (privacy.test_seed)."""
    return "NOT PRIVATE" in row.note


def draws(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that are releases of one image: spent, and each mechanism once whose copies are kept."""
    found: list[Row] = []
    kept: set[str] = set()
    for row in rows:
        if row.status != "spent" or not isinstance(row.event, LocalRelease) or row.mechanism in kept:
            continue
        if row.mechanism:
            kept.add(row.mechanism)
        found.append(row)
    return found


def image_parts(rows: Iterable[Row]) -> list[Statement]:
    """Return the image-level statement of every draw that `rows` know of."""
    return [statements.price(row.event)[0] for row in draws(rows)]


def image_epsilon(rows: Sequence[Row]) -> float:
    """Return the sum of the epsilons of all draws of one image, nats; inf where something left without a guarantee.

    Sums of pure losses (and of epsilons and deltas of approximate ones) are valid however later runs were chosen.
    """
    for row in rows:
        bare = isinstance(row.event, NonPrivate) and row.event.unit == "image"
        if bare or (fixed_noise(row) and not isinstance(row.event, Release)):
            return math.inf
    return math.fsum(part.epsilon or 0.0 for part in image_parts(rows))


def reserved(rows: Iterable[Row]) -> list[Row]:
    """Return the client-level schedules among `rows`."""
    return [row for row in rows if row.status == "reserved"]


def _client_weight(rows: Sequence[Row]) -> float:
    schedules = [row.event for row in reserved(rows)]
    if any(isinstance(event, NonPrivate) for event in schedules) or any(map(fixed_noise, reserved(rows))):
        return math.inf
    accountant = RdpAccountant(filters.relation_of(schedules), "client")
    for event, count in collections.Counter(schedules).items():
        accountant = accountant.compose(event, count)
    return accountant.upper(_DELTA)


def _plain(row: Row) -> tuple[object, ...]:
    # By the object: the rows of one ledger share equal events, and hashing nested ones for thousands of rows is slow.
    return row.run_id, row.status, id(row.event), row.note, row.mechanism


@dataclasses.dataclass(frozen=True)
class History:
    """What concerns one data set.

    Attributes:
        pictures: rows that concern one picture, per kind of picture; the worst one counts. Never empty.
        schedules: reserved client-level schedules with the number of data sets that a neighbour changes at once, in
            the order of the ledger.
        shared: other data set -> how many pictures it shares.
    """

    pictures: tuple[tuple[Row, ...], ...]
    schedules: tuple[tuple[Row, int], ...]
    shared: Mapping[str, int]

    def worst_picture(self) -> tuple[Row, ...]:
        """Return the rows of the picture with the largest image-level total."""
        return max(self.pictures, key=image_epsilon)

    def anonymous(self) -> tuple[object, object]:
        """Return what totals depend on, without names and times, to tell equal histories."""
        pictures = tuple(tuple(map(_plain, rows)) for rows in self.pictures)
        return pictures, tuple((_plain(row), size) for row, size in self.schedules)

    def client_events(self) -> list[Event]:
        """Return the schedules as events of one client; one whose noise was fixed has no guarantee."""
        fixed = NonPrivate("client", "the released models", "the noise was fixed (privacy.test_seed)")
        return [fixed if fixed_noise(row) else filters.of_group(row.event, size) for row, size in self.schedules]


class Past:
    """All rows of an owner's ledger, ready to be asked about many data sets.

    Args:
        rows: in the order of writing.
        recorded: data sets whose pictures the ledger knows.
    """

    def __init__(self, rows: Sequence[Row], recorded: Collection[str]) -> None:
        self.subjects: dict[str, list[tuple[int, Row]]] = {}
        self._deals: dict[str, dict[str, list[str]]] = {}
        self._recorded = recorded
        self._heaviest: dict[tuple[str, str, str], str | None] = {}
        self._weights: dict[tuple[str, tuple[object, ...]], float] = {}
        for number, row in enumerate(rows):
            self.subjects.setdefault(row.subject, []).append((number, row))
        for subject in self.subjects:
            source, deal = deal_of(subject)
            if deal:
                self._deals.setdefault(source, {}).setdefault(deal, []).append(subject)

    def rows(self, subject: str) -> list[Row]:
        """Return the rows under one name."""
        return [row for _, row in self.subjects.get(subject, ())]

    def history(self, subject: str, holders: Mapping[bytes, frozenset[str]], extra: Sequence[Row] = ()) -> History:
        """Return what concerns a data set.

        Args:
            subject: its name; names SOURCE/DEAL/CLIENT are shares of one source, and SOURCE is all of them.
            holders: its pictures, and who holds each of them; empty where they are not known.
            extra: rows that are about to be written for it.
        """
        shared = collections.Counter(name for names in holders.values() for name in names if name != subject)
        kinds = {names - {subject} for names in holders.values()}
        if not kinds or subject in self._deals:
            kinds.add(frozenset())  # a picture of which nothing is known
        pictures = tuple((*self._of_picture(subject, kind), *extra) for kind in sorted(kinds, key=sorted))
        return History(pictures, self._schedules(subject, shared, extra), dict(shared))

    def _of_picture(self, subject: str, others: frozenset[str]) -> list[Row]:
        rows = [*self.rows(subject), *(row for name in sorted(others) for row in self.rows(name))]
        source, own = deal_of(subject)
        known = {deal_of(name) for name in others}
        for deal in self._deals.get(source, {}):
            if deal != own and (source, deal) not in known:
                # The picture may be at any client of that deal whose pictures are not known; it is at one at most.
                heaviest = self._heaviest_of(source, deal, "image", image_epsilon)
                rows += self.rows(heaviest) if heaviest else []
        return rows

    def _schedules(self, subject: str, shared: Mapping[str, int], extra: Sequence[Row]) -> tuple[tuple[Row, int], ...]:
        source, own = deal_of(subject)
        names = [name for name in shared if deal_of(name)[0] != source]
        together: dict[tuple[str, Event, str], list[int]] = {}
        last = sum(map(len, self.subjects.values()))
        mine = [(number, row) for name in [subject, *names] for number, row in self.subjects.get(name, ())]
        for number, row in [*mine, *((last + place, row) for place, row in enumerate(extra))]:
            if row.status == "reserved":
                together.setdefault((row.run_id, row.event, row.note), []).append(number)
        found = [
            (min(numbers), Row(run_id, subject, "reserved", event, note), len(numbers))
            for (run_id, event, note), numbers in together.items()
        ]
        for deal in self._deals.get(source, {}):
            heaviest = None if deal == own else self._heaviest_of(source, deal, "client", _client_weight)
            for number, row in self.subjects[heaviest] if heaviest else ():
                if row.status == "reserved":
                    found.append((number, row, 1))
        return tuple((row, size) for _, row, size in sorted(found, key=lambda entry: entry[0]))

    def _heaviest_of(self, source: str, deal: str, level: str, weight: Callable[[Sequence[Row]], float]) -> str | None:
        """Return the client of a deal that spent most; at image level among those whose pictures are not known."""
        key = (source, deal, level)
        if key not in self._heaviest:
            names = [n for n in self._deals[source][deal] if level == "client" or n not in self._recorded]
            self._heaviest[key] = max(names, key=lambda name: self._weight(level, name, weight)) if names else None
        return self._heaviest[key]

    def _weight(self, level: str, name: str, weight: Callable[[Sequence[Row]], float]) -> float:
        plain = tuple(map(_plain, self.rows(name)))
        if (level, plain) not in self._weights:
            self._weights[level, plain] = weight(self.rows(name))
        return self._weights[level, plain]
