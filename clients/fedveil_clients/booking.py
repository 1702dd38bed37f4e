"""Accepting a run: the owner's ledger is written before anything is drawn or sent, once, for everything that may come.

Nothing that is written on acceptance depends on which rounds or clients came to take part: a client-level schedule is
reserved whole, and a simulation, whose one vault serves the whole registry, writes one row for all of its clients.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from fedveil.configuration.schema import Policy
from fedveil.data.faces import FaceSet
from fedveil.federation import claims, synthetic
from fedveil.federation.federation import Federation
from fedveil.privacy.events import Event, LocalRelease, NonPrivate
from fedveil.privacy.ledger import GALLERY, Book, Held, Row, deal_of
from fedveil.privacy.spending import History, Past
from fedveil_clients import policy
from fedveil_clients.memo import Listed, ReadOnce, content_hashes
from fedveil_clients.vault import Vault

_CHUNK = 256  # images hashed at a time


def listed(faces: FaceSet, data_set: str) -> Listed:
    """Return the names of a data set's images; a simulation's shares of one source have its records."""
    return Listed(deal_of(data_set)[0], faces.records, faces.keys)


def pictures_of(faces: FaceSet, names: Listed, vault: Vault, event: Event, read: ReadOnce) -> list[Held]:
    """Return the ledger's names of a data set's pictures; kept copies tell them without reading a picture."""
    contents: list[bytes] = []
    if kept(event):
        contents = vault.memo.contents(names.keys, read)
    else:
        for start in range(0, len(faces), _CHUNK):
            contents += content_hashes(faces.images(range(start, min(start + _CHUNK, len(faces)))))
    return vault.held(names, faces.size, contents)


def kept(event: Event) -> bool:
    """Return whether noisy copies are drawn once and kept."""
    return isinstance(event, LocalRelease) and event.releases == 1


@dataclasses.dataclass(frozen=True)
class Joining:
    """One client that is about to take part in a run.

    Attributes:
        client_id: of the registry.
        node: the owner's own settings.
        event: what one image's use in this run releases.
        mechanism: hash of everything its noise depends on but the image.
        held: `pictures_of` the data set.
        before: whether the client has trained in this run already.
    """

    client_id: str
    node: policy.Node
    event: Event
    mechanism: bytes
    held: Sequence[Held]
    before: bool = False


class Booking:
    """A run's rows on their way to the ledger; `on_disk` returns when they are there."""

    def __init__(self, write: Callable[[], None] | None = None) -> None:
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if write is not None:
            self._thread = threading.Thread(target=self._run, args=(write,), name="booking", daemon=True)
            self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # for whoever waits
            self._error = error

    def on_disk(self) -> None:
        """Wait, and raise what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error


def accept(federation: Federation, run_id: str, vault: Vault, client: Joining) -> Booking:
    """Check the owner's limits over runs and book this run, in one transaction.

    It is on disk when this returns. Only where no noise is drawn, nothing limited and the client new to the run it is
    written meanwhile: the client may train, and may not answer, before `Booking.on_disk` has returned.

    Raises:
        PolicyRefusal: a limit over runs would be exceeded, or pictures changed in the middle of a run; nothing is
            written.
    """
    settings, own, event = federation.settings, client.node.data_set, client.event
    seed, rule = settings.privacy.test_seed, client.node.policy or settings.policy
    tag = ""
    if kept(event):  # fixed noise is another draw than the owner's own
        tag = vault.mechanism_tag(client.mechanism, deal_of(own)[0], "" if seed is None else f"test seed {seed}")
    # Every attempt of a run without kept copies draws afresh, so one that goes on is booked again, in full.
    again = isinstance(event, LocalRelease) and not kept(event) and seed is None
    subject = own
    if settings.privacy.client is not None or rule.over_runs:
        subject = policy.everybody(federation, client.client_id, client.node) or own
    note = claims.note_of(federation)
    wanted = []
    if federation.counts(event):
        left = synthetic.booked(settings, event)
        wanted.append(Row(run_id, own if again else subject, "spent", left, note, mechanism=tag))
    if federation.private is not None:
        steps = federation.private_schedule
        wanted.append(Row(run_id, subject, "spent" if isinstance(steps, NonPrivate) else "reserved", steps, note))
    if settings.privacy.client is not None:
        wanted.insert(0, Row(run_id, subject, "reserved", federation.whole_schedule, note))
    ledger = vault.ledger
    drawn = isinstance(event, LocalRelease) or federation.private is not None
    later = not drawn and not rule.over_runs and not client.before
    if not later and not again and not rule.over_runs and ledger.path.exists():
        with ledger.read() as book:
            if _booked(book, wanted) and not book.lacks(own, client.held):
                return Booking()

    def write() -> None:
        with ledger.write() as book:
            if client.before and (changed := book.changed(own, client.held)):
                raise policy.PolicyRefusal(
                    f"{changed} pictures are others than when this run began, and would be drawn once more than it "
                    "claims; restore them, or start a new run",
                    "pictures are others than when this run began; the owner must restore them, or a new run begin",
                )
            rows = _missing(book, wanted, own, again, client.held)
            book.add_content(own, client.held)
            if rule.over_runs:
                _check(book, rule, rows, run_id, own, client.held)
            book.append(rows)

    if later:
        if not ledger.path.exists():  # heads beside no ledger would be a vault that lost it (`vault_folder.inspect`)
            with ledger.write():
                pass
        return Booking(write)
    write()
    return Booking()


def repeated(federation: Federation, run_id: str, vault: Vault, client: Joining, round_number: int) -> None:
    """Book the private steps of a round that is asked again: new coins and new noise, so another release of it.

    What was reserved has each round once. On disk when this returns.

    Raises:
        PolicyRefusal: a limit on the run or over runs would be exceeded; nothing is written, and the round is not run
            again.
    """
    event = federation.private_round(round_number)
    if isinstance(event, NonPrivate) or federation.settings.privacy.test_seed is not None:
        return
    rule, own = client.node.policy or federation.settings.policy, client.node.data_set
    rows = [Row(run_id, own, "spent", event, f"round {round_number} again")]
    with vault.ledger.write() as book:
        if not isinstance(client.event, LocalRelease):  # what is computed from noisy copies costs nothing more
            own_run = [*(row for row in book.rows() if row.run_id == run_id), *rows]
            policy.check_again(rule, Past(own_run, book.recorded(), rule.image_delta).history(own, {}))
        if rule.over_runs:
            _check(book, rule, rows, "", own, client.held)
        book.append(rows)


def enrolled(rule: Policy, run_id: str, node: policy.Node, vault: Vault, event: Event, held: Sequence[Held]) -> None:
    """Check the owner's limits over runs and book a gallery, every one anew; on disk when this returns.

    Raises:
        PolicyRefusal: a limit over runs would be exceeded; nothing is written.
    """
    rows = [Row(run_id, node.data_set, "spent", event, GALLERY)]
    with vault.ledger.write() as book:
        book.add_content(node.data_set, held)
        if rule.over_runs:
            _check(book, rule, rows, "", node.data_set, held)
        book.append(rows)


def _statuses(row: Row) -> tuple[str, ...]:
    return ("spent", "reused") if row.status == "spent" else (row.status,)


def _booked(book: Book, wanted: Sequence[Row]) -> bool:
    """Return whether everything is there already: another round, or a run that goes on."""
    return all(any(book.has(dataclasses.replace(row, status=s)) for s in _statuses(row)) for row in wanted)


def _missing(book: Book, wanted: Sequence[Row], own: str, again: bool, held: Sequence[Held]) -> list[Row]:
    """Return the rows that are not there yet.

    A data set that has spent a kept mechanism reads its copies again. In a registry this is asked of the ledger alone:
    who has read new pictures would tell who took part.
    """
    found: list[Row] = []
    for row in wanted:
        afresh = again and row.status == "spent"
        if not afresh and any(book.has(dataclasses.replace(row, status=status)) for status in _statuses(row)):
            continue
        drawn = row.status == "spent" and book.drawn(row.mechanism, row.subject)
        if drawn and row.subject == own and book.lacks(own, held):
            drawn = False  # it has grown or changed: what is new is drawn now
        found.append(dataclasses.replace(row, status="reused") if drawn else row)
    return found


def _check(book: Book, rule: Policy, rows: Sequence[Row], run_id: str, own: str, held: Sequence[Held]) -> None:
    """Raise unless all runs together, this one included, keep the owner's limits; the content is written already."""
    pictures = [one.picture for one in held]
    everything, holders, copies = book.rows(), book.holders(pictures), book.draws(pictures)
    before = Past([row for row in everything if row.run_id != run_id], book.recorded(), rule.image_delta)
    after = Past([*everything, *rows], book.recorded(), rule.image_delta)
    histories: list[History] = [past.history(own, holders, copies) for past in (before, after)]
    policy.check_runs(rule, *histories)
