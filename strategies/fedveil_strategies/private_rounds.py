"""Private training as the coordinator sees it: every round that it asks is booked before it is asked."""

from __future__ import annotations

import datetime

from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy.events import NonPrivate
from fedveil.privacy.ledger import Ledger, Row


class PrivateRounds:
    """The rows of one session's private rounds, of all clients alike: which of them joined makes no difference.

    A round that was interrupted and is asked again is another row: owners draw new coins and new noise. Under a test
    seed they draw the same, and it stays one row.
    """

    def __init__(self, federation: Federation, ledger: Ledger, run_id: str) -> None:
        self._federation, self._ledger, self._run_id = federation, ledger, run_id
        # Under a client-level claim all rows carry one time: how long a round took tells something of who was there.
        hidden = federation.settings.privacy.client is not None
        self._at = datetime.datetime.now(datetime.UTC).isoformat(timespec="hours") if hidden else ""

    def ask(self, number: int) -> None:
        """Book a round; on disk when this returns."""
        event = self._federation.private_round
        note = f"round {number}"
        if isinstance(event, NonPrivate):
            self._ledger.append_once(Row(self._run_id, "run", "spent", event, claims.note_of(self._federation)))
            return
        if self._federation.settings.privacy.test_seed is not None:
            note = f"{note}, {claims.NOT_PRIVATE}"
            if any((row.note, row.event) == (note, event) for row in self._ledger.rows(self._run_id)):
                return
        self._ledger.append([Row(self._run_id, "run", "spent", event, note, self._at)])
