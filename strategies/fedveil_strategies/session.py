"""One session of a run: what the coordinator, the phases and the observers hand one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from fedveil import runs
from fedveil.configuration.schema import Config
from fedveil.console import Console
from fedveil.federation import claims
from fedveil.federation.claims import Claims
from fedveil.federation.federation import Federation
from fedveil.federation.schedule import Stage
from fedveil.privacy.accounting.pld import LIVE_GRID
from fedveil.privacy.ledger import Ledger
from fedveil.runs import Run
from fedveil.tracking import Tracker
from fedveil_strategies import client_level, private_rounds, rounds


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """A run that is open: its federation, folder, public artefacts and where it stands.

    Attributes:
        state: the protection's public state (the learnt budget's shape, for instance).
        backbone: the recogniser, for evaluation.
        stage: what is being trained: a phase of the protection, or the recogniser.
        start: where this stage starts from.
        history: what every finished round's evaluation found.
        level: the client-level guarantee, or None.
        seconds_before: wall time of the attempts before this one, up to their last checkpoints.
        lock: held while the session is open.
        warm_start: what the evaluation of a warm start found before the first round, if there was one.
        private: books the rounds of private training, or None.
    """

    federation: Federation
    run: Run
    state: Mapping[str, torch.Tensor]
    backbone: torch.nn.Module
    stage: Stage
    start: rounds.State
    history: tuple[Mapping[str, Any], ...]
    plan: rounds.Plan
    level: client_level.ClientLevel | None
    tracker: Tracker
    console: Console
    begun: float
    seconds_before: float = 0.0
    lock: runs.Lock | None = None
    warm_start: Mapping[str, Any] | None = None
    private: private_rounds.PrivateRounds | None = None

    @property
    def settings(self) -> Config:
        """The run's configuration."""
        return self.federation.settings

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.run_id

    def claims(self, grid: float = LIVE_GRID) -> Claims:
        """Return what the run may claim after the rounds so far, from the rows in its ledger."""
        return claims.of_run(self.federation, Ledger(self.run.ledger).rows(self.run_id), grid)
