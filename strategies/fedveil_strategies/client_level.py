"""A client-level guarantee while a run goes on: secret cohorts, events before noise, a budget that stops it."""

from __future__ import annotations

import collections
import datetime
import math
from collections.abc import Iterable, Sequence

import torch

from fedveil import checks, randomness
from fedveil.federation import claims, planning
from fedveil.federation.federation import Federation
from fedveil.privacy import banded, calibration
from fedveil.privacy.accounting.pld import LIVE_GRID
from fedveil.privacy.banded import Correlated
from fedveil.privacy.events import NonPrivate
from fedveil.privacy.ledger import Ledger, Row
from fedveil.randomness import SecretStream
from fedveil.records import Failure, Update
from fedveil_strategies import cohorts, private, rounds

_FIXED = f"round {{}}, {claims.NOT_PRIVATE}"


class ClientLevel:
    """The client-level side of one session.

    Every round writes its event to the run ledger and syncs it before the noisy sum is used; an interrupted round is
    run again as a new, counted event with new coins and new noise, because both are drawn from the operating system
    and never stored.

    With bands, rounds take turns among groups of clients and noise is correlated over them (`federation.groups`,
    `privacy.banded`). The correlation begins anew where a stage does and where a run goes on after an interruption:
    that costs cancellation, and of epsilon no more than a round that is run again, which its group pays for twice.
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
        self._turns = federation.groups
        own = {federation.release_of(number) for number in range(1, self._turns.bands + 1)}
        self._booked = collections.Counter(row.event for row in ledger.rows(run_id) if row.event in own)
        self._correlated: Correlated | None = None
        self._next = 0  # the round whose noise the correlated stream gives next

    def enter(self, plan: rounds.Plan) -> None:
        """Go on with another network: other tensors, the same registry, cohorts and accountant."""
        self._plan, self._correlated = plan, None

    def _stream(self, purpose: str, number: int) -> SecretStream:
        seed = self._federation.settings.privacy.test_seed
        key = randomness.os_key() if seed is None else randomness.test_key(seed, purpose, number)
        return SecretStream(key)

    def draw(self, number: int) -> Sequence[str]:
        """Return a round's cohort from secret coins."""
        words = self._stream("cohort", number).words
        return cohorts.draw_group(self._plan.cohort, self._plan.registry, words, self._turns, number)

    def proceed(self, number: int) -> bool:
        """Return whether another round keeps the run within its budget and the rounds that its owners reserved.

        A round that was interrupted after its event was booked is run again as another event, and owners have reserved
        no more than the schedule: such a run ends a round early, or where its group's turn would come once more than
        they reserved.
        """
        federation, event = self._federation, self._federation.release_of(number)
        reserved = self._turns.rounds_of_one(federation.total_rounds)
        if self._booked[event] >= reserved and federation.settings.privacy.test_seed is None:
            return False
        target = self._budget.epsilon
        if target is None or math.isinf(target) or isinstance(event, NonPrivate):
            return True
        after = self._booked + collections.Counter([] if self._repeats(number) else [event])
        return claims.client_epsilon(federation, after.items(), LIVE_GRID) <= target

    def combine(self, number: int, answers: Iterable[Update | Failure], state: rounds.State) -> rounds.Combined:
        """Clip, sum, book the event, add the noise, divide by the public cohort."""
        clip = state.memory.get("clip", self.mechanism.clip)
        total, count, failures = private.bounded_sums(answers, self._plan, state.tensors, self.mechanism, clip)
        self._spend(number)
        stream = self._stream("noise", number)
        correlated = self._correlated_until(number, total)
        noisy = private.released(total, count, self._plan, state.tensors, self.mechanism, clip, stream, correlated)
        self._next = number + 1
        return rounds.Combined(noisy.mean, tuple(failures), {"clip": noisy.clip})

    def _correlated_until(self, number: int, total: torch.Tensor) -> Correlated | None:
        """Return the stream of correlated noise that stands at a round; None for independent noise.

        A stream begins with the first round that this process combines in a stage, for the rounds that are left of it.
        Under a test seed all of it can be drawn again, so it begins with the stage, and a run that goes on has equal
        bits.
        """
        drawn = self.mechanism.update_noise(self.mechanism.clip)
        if self._turns.bands == 1 or drawn is None:
            return None
        if self._correlated is None or number != self._next:
            stage = self._federation.stage_of(number)
            first = number if self._federation.settings.privacy.test_seed is None else stage.first
            self._correlated = Correlated(banded.strategy(stage.last - first + 1, self._turns.bands))
            for earlier in range(first, number):
                self._correlated.next(drawn.added(self._stream("noise", earlier), torch.zeros_like(total)))
        return self._correlated

    def _spend(self, number: int) -> None:
        """Book this round's release; a round that is run again draws again and is booked again.

        Under a test seed it draws the same, so it stays one row: the run is NOT PRIVATE and repeats exactly.
        """
        if self._repeats(number):
            return
        event = self._federation.release_of(number)
        fixed = self._federation.settings.privacy.test_seed is not None
        note = _FIXED.format(number) if fixed else f"round {number}"
        self._ledger.append([Row(self._run_id, "run", "spent", event, note, self._opened)])
        self._booked[event] += 1

    def _repeats(self, number: int) -> bool:
        """Return whether a round was booked whose coins and noise are fixed: it is run again with equal bits."""
        if self._federation.settings.privacy.test_seed is None:
            return False
        return any(row.note == _FIXED.format(number) for row in self._ledger.rows(self._run_id))

    def lines(self, dimension: int) -> list[str]:
        """Return what was chosen, for people: noise, cohort, noise-to-signal ratio and a remedy when it is hopeless."""
        if isinstance(self.event, NonPrivate):
            return [f"client level: updates clipped to {self.mechanism.clip:g}, no noise: no guarantee"]
        loud = self.mechanism.update_multiplier * planning.loudness(self._federation.settings)
        ratio = calibration.noise_to_signal(loud, dimension, self.mechanism.expected)
        chosen = (
            f"client level: noise multiplier {self.mechanism.noise_multiplier:.4g}, clipping norm "
            f"{self.mechanism.clip:g}, {self.mechanism.expected:g} clients expected of {len(self._plan.registry)}, "
            f"{dimension:,} trained numbers, noise-to-signal ratio {ratio.ratio:.3g}"
        )
        if self._turns.bands > 1:
            chosen += f", banded over {self._turns.bands} rounds: in the model like independent noise of {loud:.4g}"
        return [chosen, ratio.warning] if ratio.warning else [chosen]


def check_start(federation: Federation) -> None:
    """Refuse to start when the whole schedule exceeds the budget and the owner of the run said so."""
    budget = federation.settings.privacy.client
    if budget is None or budget.on_exhausted != "refuse_to_start" or budget.epsilon is None:
        return
    whole = federation.whole_schedule
    if isinstance(whole, NonPrivate) or math.isinf(budget.epsilon):
        return
    cost = claims.client_epsilon(federation, [(whole, 1)], LIVE_GRID)
    if cost > budget.epsilon:
        raise checks.UserError(
            f"The {federation.total_rounds} rounds of this run cost epsilon {cost:.4g} at delta "
            f"{budget.delta:g}, above privacy.client.epsilon={budget.epsilon:g}: lower train.rounds, raise "
            "privacy.client.noise_multiplier, or set privacy.client.on_exhausted=stop."
        )
