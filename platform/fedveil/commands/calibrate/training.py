"""What a budget for images or people costs before anything is trained: noise, steps, and what an owner reserves."""

from __future__ import annotations

import collections
import dataclasses
import textwrap

from fedveil import checks
from fedveil.commands.calibrate.client import trained_numbers
from fedveil.configuration.schema import Config
from fedveil.federation import claims, planning, private_steps
from fedveil.federation.federation import Federation
from fedveil.privacy import calibration
from fedveil.privacy.accounting.pld import FINAL_GRID, LIVE_GRID


def calibrate(settings: Config) -> str:
    """Return the noise that meets `privacy.image` or `privacy.identity`, what it proves, and alternatives.

    Where a run of these settings would claim nothing, fixed noise or an undeclared start, that is said.

    Raises:
        fedveil.checks.UserError: a target that cannot be met.
    """
    federation = Federation(planning.planned(settings))
    budget, train = federation.private, federation.settings.train
    if budget is None or budget.noise_multiplier is None:
        raise checks.UserError("This budget adds no noise; give a finite epsilon.")
    rounds, steps = federation.total_rounds, train.local.steps or 0
    bound = claims.training_bound(federation, collections.Counter(federation.private_rounds).items(), FINAL_GRID)
    divisor, numbers = private_steps.expected_batch(federation.settings), trained_numbers(federation)
    extra = f" and {budget.rows} class centres" if budget.head == "trained" else ""
    ratio = calibration.noise_to_signal(budget.noise_multiplier, numbers, divisor).ratio
    noun = "people" if budget.unit == "identity" else "images"
    ends = f", falling to {budget.noise_end:g} of that" if budget.noise_end < 1 else ""
    ends = f", rising to {budget.noise_end:g} times that" if budget.noise_end > 1 else ends
    lines = [
        f"target        {budget.unit}-level epsilon {budget.epsilon:g} at delta {budget.delta:g} (zero-out)",
        f"schedule      {rounds} rounds of {steps} steps; {noun} join with probability {budget.sampling_rate:g}",
        f"noise         {budget.noise_multiplier:.5g} times the clipping norm {budget.clip:g}, on the sum of gradients"
        + ends,
        f"divisor       {divisor}: a step moves by the noisy sum over it; expect about that many {noun}",
        f"proven        epsilon between {bound.lower:.5g} and {bound.upper:.5g} ({bound.method})",
        f"signal        {numbers:,} numbers{extra}: noise-to-signal ratio {ratio:.3g} a step",
        f"reserved      {rounds} rounds in each owner's ledger, joined or not; a round asked again is one more",
    ]
    planned = claims.planned(federation, federation.planned_event, LIVE_GRID)
    if void := claims.claimed(budget.unit, planned.statements)[1]:
        lines.insert(5, f"claim         nothing, whatever the noise: {void}")
    lines += ["", "rounds   noise multiplier   noise-to-signal ratio a step"]
    for count in sorted({max(1, train.rounds // 4), max(1, train.rounds // 2), train.rounds, 2 * train.rounds}):
        noise = _noise(settings, count)
        loud = calibration.noise_to_signal(noise, numbers, divisor).ratio
        lines.append(f"{count:>6}   {noise:>16.4g}   {loud:>28.3g}")
    return "\n".join(textwrap.fill(line, 80, subsequent_indent=" " * 14) if line else "" for line in lines)


def _noise(settings: Config, rounds: int) -> float:
    other = dataclasses.replace(settings, train=dataclasses.replace(settings.train, rounds=rounds))
    found = private_steps.budget_of(planning.planned(other))
    return (found.noise_multiplier if found is not None else None) or 0.0
