"""One session of a run: what the coordinator, the phases and the observers hand one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from fedveil import runs
from fedveil.configuration.schema import Config
from fedveil.console import Console
from fedveil.federation import warm_start
from fedveil.federation.federation import Federation
from fedveil.federation.schedule import Stage
from fedveil.privacy import statements
from fedveil.privacy.statements import Statement
from fedveil.runs import Run
from fedveil.tracking import Tracker
from fedveil_strategies import client_level, rounds


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """A run that is open: its federation, folder, public artefacts and where it stands.

    Attributes:
        state: the protection's public state (the learnt budget's shape, for instance).
        backbone: the recogniser, for evaluation.
        stage: what is being trained: a phase of the protection, or the recogniser.
        start: where this stage starts from.
        history: what every finished round's evaluation found.
        statements: what the local releases may claim; `claims` adds the client level's.
        level: the client-level guarantee, or None.
        seconds_before: wall time of the attempts before this one, up to their last checkpoints.
        lock: held while the session is open.
        warm_start: what the evaluation of a warm start found before the first round, if there was one.
    """

    federation: Federation
    run: Run
    state: Mapping[str, torch.Tensor]
    backbone: torch.nn.Module
    stage: Stage
    start: rounds.State
    history: tuple[Mapping[str, Any], ...]
    statements: tuple[Statement, ...]
    plan: rounds.Plan
    level: client_level.ClientLevel | None
    tracker: Tracker
    console: Console
    begun: float
    seconds_before: float = 0.0
    lock: runs.Lock | None = None
    warm_start: Mapping[str, Any] | None = None

    @property
    def settings(self) -> Config:
        """The run's configuration."""
        return self.federation.settings

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.run_id

    def claims(self, final: bool = False) -> list[Statement]:
        """Return all statements as they stand after the rounds so far; none is a guarantee under a test seed."""
        found = [*([self.level.statement(final)] if self.level is not None else []), *self.statements]
        if self.settings.privacy.test_seed is not None:
            return [statements.void(one, statements.FIXED_NOISE) for one in found]
        leak = warm_start.leak(self.settings)
        if leak is not None:  # what a start has learnt is in every model that follows
            found = [statements.void(one, leak.reason) if "model" in one.view else one for one in found]
        return found
