"""What one data set has spent over all runs, whatever it was called and whoever else held its pictures meanwhile.

Image level: a picture pays for every mechanism that any data set holding it has spent, as often as it was drawn; the
data set's total is that of its worst picture. Client level: a data set pays for every schedule that it, or a data set
sharing a picture with it, has reserved. Where a ledger does not know who holds which picture, the larger total counts.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from fedveil.privacy.accounting import filters
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import Event, LocalRelease, NonPrivate, Release
from fedveil.privacy.ledger import Row, deal_of, everybody_of

DELTA = 1e-5
"""At which totals of unequal kinds are ordered where no owner names another."""


def fixed_noise(row: Row) -> bool:
    """Return whether a row is of a run whose noise was fixed (privacy.test_seed)."""
    return "NOT PRIVATE" in row.note


def reserved(rows: Iterable[Row]) -> list[Row]:
    """Return the client-level schedules among `rows`."""
    return [row for row in rows if _of_client(row)]


def _of_client(row: Row) -> bool:
    """Return whether a row reserves a schedule that speaks of whole clients."""
    return row.status == "reserved" and getattr(row.event, "unit", "client") == "client"


FINER = ("image", "identity")
"""Units of a client's data: what bounds a person bounds each picture, as if the person were replaced."""


def _client_weight(picture: Picture) -> float:
    schedules = reserved(picture.rows)
    if any(isinstance(row.event, NonPrivate) or fixed_noise(row) for row in schedules):
        return math.inf
    accountant = RdpAccountant(filters.relation_of([row.event for row in schedules]), "client")
    for event, count in collections.Counter(row.event for row in schedules).items():
        accountant = accountant.compose(event, count)
    return accountant.upper(DELTA)


def _group(share: tuple[str, str], holders: Mapping[bytes, frozenset[str]]) -> int:
    """Return how many clients of a deal (source, deal) are at most known to share pictures, one with the others."""
    together: dict[str, set[str]] = {}
    for names in holders.values():
        here = {name for name in names if deal_of(name) == share}
        for name in here:
            together.setdefault(name, set()).update(here)
    return max(map(len, together.values()), default=1)


def _plain(row: Row) -> tuple[object, ...]:
    # By the object: the rows of one ledger share equal events, and hashing nested ones for thousands of rows is slow.
    return row.run_id, row.status, id(row.event), row.note, row.mechanism


@dataclasses.dataclass(frozen=True)
class Picture:
    """The rows that concern one picture, or one kind of picture.

    Attributes:
        rows: in the order of the ledger.
        copies: source -> how often a kept mechanism of that source was drawn for it; 1 where it is left out.
    """

    rows: tuple[Row, ...]
    copies: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def draws(self) -> list[tuple[Row, int]]:
        """Return the rows that are releases of one image, spent, with how often; each kept mechanism once."""
        found: list[tuple[Row, int]] = []
        kept: set[str] = set()
        for row in self.rows:
            if row.status != "spent" or not isinstance(row.event, LocalRelease) or row.mechanism in kept:
                continue
            if row.mechanism:
                kept.add(row.mechanism)
            times = self.copies.get(deal_of(row.subject)[0], 1) if row.mechanism else 1
            found.append((row, times))
        return found

    def local(self) -> list[LocalRelease]:
        """Return every release of one image by itself, in the order of the ledger."""
        found: list[LocalRelease] = []
        for row, times in self.draws():
            assert isinstance(row.event, LocalRelease)
            found += [row.event] * times
        return found

    def training(self) -> list[Release]:
        """Return the private steps that a picture was in: schedules, and rounds that were asked again, in order.

        Those of a run that read noisy copies are left out: whoever is bounded on the copies is bounded on all that was
        computed from them.
        """
        copied = {row.run_id for row, _ in self.draws()}
        found: list[Release] = []
        for row in self.rows:
            event = row.event
            if isinstance(event, Release) and event.unit in FINER and row.run_id not in copied:
                found.append(event)
        return found

    @property
    def unprotected(self) -> bool:
        """Whether something left of it without any guarantee."""
        return any(
            (isinstance(row.event, NonPrivate) and row.event.unit in FINER)
            or (fixed_noise(row) and not (isinstance(row.event, Release) and row.event.unit == "client"))
            for row in self.rows
        )

    def epsilon(self, delta: float = DELTA) -> float:
        """Return what all draws of one image come to at one delta, nats; inf where one has no guarantee."""
        if self.unprotected:
            return math.inf
        return filters.image_epsilon(self.local(), self.training(), delta)


@dataclasses.dataclass(frozen=True)
class History:
    """What concerns one data set.

    Attributes:
        pictures: per kind of picture; the worst one counts. Never empty.
        schedules: reserved client-level schedules with the number of data sets that a neighbour changes at once, in
            the order of the ledger.
        shared: other data set -> how many pictures it shares.
    """

    pictures: tuple[Picture, ...]
    schedules: tuple[tuple[Row, int], ...]
    shared: Mapping[str, int]

    def worst_picture(self, delta: float = DELTA) -> Picture:
        """Return the picture with the largest image-level total at this delta."""
        return max(self.pictures, key=lambda picture: picture.epsilon(delta))

    def rows(self) -> list[Row]:
        """Return all rows that concern the data set, some of them more than once."""
        return [row for picture in self.pictures for row in picture.rows] + [row for row, _ in self.schedules]

    def anonymous(self) -> tuple[object, object]:
        """Return what totals depend on, without names and times, to tell equal histories."""
        pictures = tuple((tuple(map(_plain, one.rows)), tuple(sorted(one.copies.items()))) for one in self.pictures)
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
        delta: at which image-level totals are compared.
    """

    def __init__(self, rows: Sequence[Row], recorded: Collection[str], delta: float = DELTA) -> None:
        self.delta = delta
        self._subjects: dict[str, list[tuple[int, Row]]] = {}
        self._deals: dict[str, dict[str, list[str]]] = {}
        self._recorded = recorded
        self._heaviest: dict[tuple[str, str, str], str | None] = {}
        self._weights: dict[tuple[str, tuple[object, ...]], float] = {}
        for number, row in enumerate(rows):
            self._subjects.setdefault(row.subject, []).append((number, row))
        for subject in self._subjects:
            source, deal = deal_of(subject)
            if deal:
                self._deals.setdefault(source, {}).setdefault(deal, []).append(subject)

    def names(self) -> list[str]:
        """Return every name that can be asked about: data sets, shares of a deal, and the sources of deals."""
        return sorted({*self._subjects, *self._deals})

    def numbered(self, subject: str) -> list[tuple[int, Row]]:
        """Return the rows under one name, those of its whole deal among them, with their places in the ledger."""
        everybody = everybody_of(subject)
        own = self._subjects.get(subject, [])
        if everybody is None or everybody == subject:
            return own
        return sorted([*own, *self._subjects.get(everybody, ())], key=lambda entry: entry[0])

    def rows(self, subject: str) -> list[Row]:
        """Return the rows under one name, those of its whole deal among them."""
        return [row for _, row in self.numbered(subject)]

    def of_source(self, source: str) -> list[Row]:
        """Return the rows of all deals of a source, of each deal those of its heaviest client."""
        return [row for _, row in self._of_kind(source, frozenset())]

    def history(
        self,
        subject: str,
        holders: Mapping[bytes, frozenset[str]],
        copies: Mapping[bytes, Mapping[str, int]] | None = None,
        extra: Sequence[Row] = (),
    ) -> History:
        """Return what concerns a data set.

        Args:
            subject: its name; names SOURCE/DEAL/CLIENT are shares of one source, and SOURCE is all of them.
            holders: its pictures, and who holds each of them; empty where they are not known.
            copies: `Book.draws` of its pictures.
            extra: rows that are about to be written for it.
        """
        drawn = copies or {}
        shared = collections.Counter(name for names in holders.values() for name in names if name != subject)
        kinds = {
            (names - {subject}, tuple(sorted(drawn.get(picture, {}).items()))) for picture, names in holders.items()
        }
        if not kinds or subject in self._deals:
            kinds.add((frozenset(), ()))  # a picture of which nothing is known
        ordered = sorted(kinds, key=lambda kind: (sorted(kind[0]), kind[1]))
        pictures = tuple(
            Picture((*(row for _, row in self._of_kind(subject, others)), *extra), dict(counts))
            for others, counts in ordered
        )
        return History(pictures, self._schedules(subject, shared, holders, extra), dict(shared))

    def _of_kind(self, subject: str, others: frozenset[str]) -> list[tuple[int, Row]]:
        found = {number: row for name in (subject, *others) for number, row in self.numbered(name)}
        source, own = deal_of(subject)
        known = {deal_of(name) for name in others}
        for deal in self._deals.get(source, {}):
            if deal != own and (source, deal) not in known:
                # The picture may be at any client of that deal whose pictures are not known; it is at one at most.
                heaviest = self._heaviest_of(source, deal, "image", lambda picture: picture.epsilon(self.delta))
                found |= dict(self.numbered(heaviest)) if heaviest else {}
        return sorted(found.items())

    def _schedules(
        self, subject: str, shared: Mapping[str, int], holders: Mapping[bytes, frozenset[str]], extra: Sequence[Row]
    ) -> tuple[tuple[Row, int], ...]:
        source, own = deal_of(subject)
        whole = subject in self._deals  # a source: of each deal the heaviest client, with those who share its pictures
        names = [name for name in shared if not whole or deal_of(name)[0] != source]
        known = {deal_of(name) for name in names}
        together: dict[tuple[str, Event, str], list[int]] = {}
        last = sum(map(len, self._subjects.values()))
        mine = [(number, row) for name in [subject, *names] for number, row in self.numbered(name)]
        for number, row in [*mine, *((last + place, row) for place, row in enumerate(extra))]:
            if _of_client(row):
                together.setdefault((row.run_id, row.event, row.note), []).append(number)
        found = [
            (min(numbers), Row(run_id, subject, "reserved", event, note), len(numbers))
            for (run_id, event, note), numbers in together.items()
        ]
        counted = {number for numbers in together.values() for number in numbers}
        for deal in self._deals.get(source, {}):
            # Of a deal of which some clients are known to share a picture, those whose pictures are not may, too.
            level = "unknown client" if (source, deal) in known else "client"
            heaviest = None if deal == own else self._heaviest_of(source, deal, level, _client_weight)
            for number, row in self.numbered(heaviest) if heaviest else ():
                if _of_client(row) and number not in counted:
                    found.append((number, row, _group((source, deal), holders) if whole else 1))
        return tuple((row, size) for _, row, size in sorted(found, key=lambda entry: entry[0]))

    def _heaviest_of(self, source: str, deal: str, level: str, weight: Callable[[Picture], float]) -> str | None:
        """Return the client of a deal that spent most; at image level among those whose pictures are not known."""
        key = (source, deal, level)
        if key not in self._heaviest:
            names = [n for n in self._deals[source][deal] if level == "client" or n not in self._recorded]
            self._heaviest[key] = max(names, key=lambda name: self._weight(level, name, weight)) if names else None
        return self._heaviest[key]

    def _weight(self, level: str, name: str, weight: Callable[[Picture], float]) -> float:
        rows = tuple(self.rows(name))
        plain = tuple(map(_plain, rows))
        if (level, plain) not in self._weights:
            self._weights[level, plain] = weight(Picture(rows))
        return self._weights[level, plain]


