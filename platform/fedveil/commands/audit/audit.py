"""`fedveil audit`: the claim, what an adversary achieved against the real code, and what that does and does not show.

No owner's data is read: canary clients stand in for clients, canaries and drawn faces for images and people, drawn
patterns for what is copied; the settings are the run's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedveil import checks, config, readback, runs
from fedveil.commands import _mistakes
from fedveil.commands.audit import client, local, training
from fedveil.commands.audit.report import CONFIDENCE, LEVEL, Bound, text, verdict
from fedveil.federation.coordinating import AtCoordinator
from fedveil.federation.federation import Federation
from fedveil.privacy.ledger import Row

__all__ = ["Bound", "Subject", "audit", "subject", "text", "verdict"]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is audited.

    Attributes:
        name: the run's id, or the words.
        federation: of its planned configuration.
        run: the run's folder, or None for words.
        rows: of the run's ledger.
        finished: rounds that its checkpoint has finished.
        state: the protection's public state in the checkpoint, as arrays; empty where there is none.
    """

    name: str
    federation: Federation
    run: runs.Run | None = None
    rows: tuple[Row, ...] = ()
    finished: int = 0
    state: dict[str, Any] = dataclasses.field(default_factory=dict)

    def lacks(self, unit: str) -> list[str]:
        """Return a note if the run's ledger holds fewer noisy rounds of a unit than were finished."""
        booked = len(training.booked(self.rows, unit))
        if self.run is None or booked >= self.finished:
            return []
        return [f"the ledger holds {booked} of the {self.finished} finished rounds"]


def subject(words: Sequence[str]) -> Subject:
    """Return the run that the first word names (later words may say runs.root=...), or what the words configure."""
    if not words or "=" in words[0]:
        return Subject(" ".join(words) or "the default configuration", Federation.of(words))
    _mistakes.only(words[1:], ("runs",), "an audit of a run")
    run = runs.open_run(Path(config.load(words[1:]).runs.root), words[0])
    kept = readback.settings_of(run)
    federation = AtCoordinator(kept) if readback.at_owners(run) else Federation(kept)
    rows = tuple(readback.ledger_of(run).rows(run.run_id))
    arrays, meta = readback.checkpoint_of(run)
    state = {name[6:]: value for name, value in arrays.items() if name.startswith("state/")}
    return Subject(run.run_id, federation, run, rows, int(meta["round"]), state)


def audit(
    chosen: Subject, canaries: int = 1000, draws: int = 100_000, seed: int = 1, repeats: int = 100
) -> dict[str, Any]:
    """Attack what a run or a configuration claims; return bounds, notes and whether a claim is refuted, as plain JSON.

    Guarantee: all bounds hold together with probability 0.95, so at most one audit in twenty calls a true claim
    violated. A bound below its claim shows nothing but that these attacks are not enough.

    Args:
        chosen: what to audit.
        canaries: canary clients of the replayed run, or units of a private step, at least 20.
        draws: releases of a single mechanism on each of two extreme inputs, at least 200.
        seed: of the public audit coins; noise, cohorts and batches come from where the run's come from.
        repeats: short private runs with and without one unit, at least 20 of each.

    Raises:
        fedveil.checks.UserError: nothing is claimed, so nothing can be refuted.
    """
    if canaries < 20 or draws < 200 or repeats < 20:
        raise checks.UserError(
            f"Expected canaries={canaries} of at least 20, draws={draws} of at least 200 and repeats={repeats} of at "
            "least 20."
        )
    federation, rows = chosen.federation, chosen.rows
    settings = federation.settings
    budget, steps = settings.privacy.client, federation.private
    found: list[Bound] = []
    notes: list[str] = []
    private = steps is not None and steps.noise_multiplier is not None
    others = budget is not None or federation.protection.noise
    level = LEVEL / 2 if private and others else LEVEL  # private steps alone have eight bounds, the others as many
    if budget is not None and budget.noise_multiplier is not None:
        found += client.attack(federation, budget, rows, canaries, draws, seed, level)
        notes += chosen.lacks("client")
    if steps is not None and private:
        found += training.attack(federation, steps, rows, canaries, draws, repeats, seed, level)
        notes += chosen.lacks(steps.unit)
    missing = bool(notes)
    found += local.attack(federation, rows, chosen.state, draws, level)
    if not found:
        raise checks.UserError(
            "Nothing to audit: this configuration claims no epsilon. Give privacy.client.epsilon=8 "
            "privacy.client.delta=1e-5 privacy.client.clip=0.5, privacy.image.epsilon=8, or a protection with noise "
            "such as protection=dctdp."
        )
    if settings.privacy.test_seed is not None:
        notes.append("NOT PRIVATE: fixed noise (privacy.test_seed); whoever knows the seed subtracts it.")
    return {
        "subject": chosen.name,
        "confidence": CONFIDENCE,
        "bounds": [bound.to_dict() for bound in found],
        "notes": notes,
        "violated": missing or any(bound.violated for bound in found),
    }
