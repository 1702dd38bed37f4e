"""A client-level guarantee while a run goes on: secret cohorts, events before noise, a budget that stops it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence

from fedveil import checks, randomness
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy import calibration
from fedveil.privacy.accounting.pld import LIVE_GRID
from fedveil.privacy.events import NonPrivate
from fedveil.privacy.ledger import Ledger, Row
from fedveil.randomness import SecretStream
from fedveil.records import Failure, Update
from fedveil_strategies import cohorts, private, rounds


class ClientLevel:
    """The client-level side of one session.

    Every round writes its event to the run ledger and syncs it before the noisy sum is used; an interrupted round is
    run again as a new, counted event with new coins and new noise, because both are drawn from the operating system
    and never stored.
    """

    def __init__(self, federation: Federation, plan: rounds.Plan, ledger: Ledger, run_id: str) -> None:
        budget = federation.settings.privacy.client
        if budget is None:
            raise ValueError("No client-level budget is configured.")
        self._federation, self._plan, self._ledger, self._run_id = federation, plan, ledger, run_id
        self._budget = budget
        # All rows carry one time: how long a round took tells something about who took part in it.
        self._opened = datetime.datetime.now(datetime.UTC).isoformat(timespec="hours")
        self.event = federation.round_release
        self.mechanism = private.Mechanism(
            noise_multiplier=budget.noise_multiplier or 0.0,
            clip=budget.clip or 1.0,
            expected=cohorts.expected_size(plan.cohort, len(plan.registry)),
            quantile=budget.quantile,
            share=budget.quantile_share,
            clip_lr=budget.quantile_lr,
            kind=federation.settings.privacy.noise,
        )
        self.mechanism.check_sums(len(plan.registry))
        self._booked = sum(row.event == self.event for row in ledger.rows(run_id))

    def enter(self, plan: rounds.Plan) -> None:
        """Go on with another network: other tensors, the same registry, cohorts and accountant."""
        self._plan = plan

    def _stream(self, purpose: str, number: int) -> SecretStream:
        seed = self._federation.settings.privacy.test_seed
        key = randomness.os_key() if seed is None else randomness.test_key(seed, purpose, number)
        return SecretStream(key)

    def draw(self, number: int) -> Sequence[str]:
        """Return a round's cohort from secret coins."""
        return cohorts.draw(self._plan.cohort, self._plan.registry, self._stream("cohort", number).words)

    def proceed(self, number: int) -> bool:
        """Return whether another round keeps the run within its budget and the rounds that its owners reserved.

        A round that was interrupted after its event was booked is run again as another event, and owners have reserved
        no more than the schedule: such a run ends a round early.
        """
        federation = self._federation
        if self._booked >= federation.total_rounds and federation.settings.privacy.test_seed is None:
            return False
        target = self._budget.epsilon
        if target is None or math.isinf(target) or isinstance(self.event, NonPrivate):
            return True
        return claims.client_epsilon(federation, [(self.event, self._booked + 1)], LIVE_GRID) <= target

    def combine(self, number: int, answers: Iterable[Update | Failure], state: rounds.State) -> rounds.Combined:
        """Clip, sum, book the event, add the noise, divide by the public cohort."""
        clip = state.memory.get("clip", self.mechanism.clip)
        total, count, failures = private.bounded_sums(answers, self._plan, state.tensors, self.mechanism, clip)
        self._spend(number)
        stream = self._stream("noise", number)
        noisy = private.released(total, count, self._plan, state.tensors, self.mechanism, clip, stream)
        return rounds.Combined(noisy.mean, tuple(failures), {"clip": noisy.clip})

    def _spend(self, number: int) -> None:
        """Book this round's release; a round that is run again draws again and is booked again.

        Under a test seed it draws the same, so it stays one row: the run is NOT PRIVATE and repeats exactly.
        """
        if self._federation.settings.privacy.test_seed is not None:
            note = f"round {number}, {claims.NOT_PRIVATE}"
            if any(row.note == note for row in self._ledger.rows(self._run_id)):
                return
        else:
            note = f"round {number}"
        self._ledger.append([Row(self._run_id, "run", "spent", self.event, note, self._opened)])
        self._booked += 1

    def lines(self, dimension: int) -> list[str]:
        """Return what was chosen, for people: noise, cohort, noise-to-signal ratio and a remedy when it is hopeless."""
        if isinstance(self.event, NonPrivate):
            return [f"client level: updates clipped to {self.mechanism.clip:g}, no noise: no guarantee"]
        ratio = calibration.noise_to_signal(self.mechanism.update_multiplier, dimension, self.mechanism.expected)
        chosen = (
            f"client level: noise multiplier {self.mechanism.noise_multiplier:.4g}, clipping norm "
            f"{self.mechanism.clip:g}, {self.mechanism.expected:g} clients expected of {len(self._plan.registry)}, "
            f"{dimension:,} trained numbers, noise-to-signal ratio {ratio.ratio:.3g}"
        )
        return [chosen, ratio.warning] if ratio.warning else [chosen]


def check_start(federation: Federation) -> None:
    """Refuse to start when the whole schedule exceeds the budget and the owner of the run said so."""
    budget = federation.settings.privacy.client
    if budget is None or budget.on_exhausted != "refuse_to_start" or budget.epsilon is None:
        return
    whole = federation.whole_schedule
    if isinstance(whole, NonPrivate) or math.isinf(budget.epsilon):
        return
    cost = claims.client_epsilon(federation, [(federation.round_release, federation.total_rounds)], LIVE_GRID)
    if cost > budget.epsilon:
        raise checks.UserError(
            f"The {federation.total_rounds} rounds of this run cost epsilon {cost:.4g} at delta "
            f"{budget.delta:g}, above privacy.client.epsilon={budget.epsilon:g}: lower train.rounds, raise "
            "privacy.client.noise_multiplier, or set privacy.client.on_exhausted=stop."
        )

