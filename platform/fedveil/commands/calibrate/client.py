"""What a client-level budget costs before anything is trained: noise, signal, and what would change them."""

from __future__ import annotations

import dataclasses

from fedveil import checks
from fedveil.configuration.schema import Config, Train
from fedveil.federation import claims, planning
from fedveil.federation.federation import Federation
from fedveil.privacy import calibration
from fedveil.privacy.accounting.pld import FINAL_GRID, LIVE_GRID, PldAccountant
from fedveil.privacy.events import NonPrivate


def trained_numbers(federation: Federation) -> int:
    """Return how many numbers a client's update has: the size of the allow-listed tensors."""
    sizes = {name: tensor.numel() for name, tensor in federation.backbone().named_parameters()}
    return sum(sizes[name] for name in federation.trainable(list(sizes)))


def calibrate(settings: Config) -> str:
    """Return the noise that meets `privacy.client`, what it proves, the noise-to-signal ratio, and alternatives.

    Where a run of these settings would claim nothing, fixed noise or an undeclared start, that is said.

    Raises:
        fedveil.checks.UserError: a target that cannot be met.
    """
    plan = planning.planned(settings)
    federation = Federation(plan)
    budget, train = plan.privacy.client, plan.train
    assert budget is not None  # planned() keeps a budget that has a target
    relation, whole = federation.relation, federation.whole_schedule
    if isinstance(whole, NonPrivate):
        raise checks.UserError("This budget adds no noise; give a finite privacy.client.epsilon.")
    bound = PldAccountant(relation, "client", grid=FINAL_GRID).compose(whole).epsilon(budget.delta or 0.0)
    noise, numbers = budget.noise_multiplier or 0.0, trained_numbers(federation)
    loudness = planning.loudness(plan)
    ratio = calibration.noise_to_signal(noise * loudness, numbers, _expected(train))
    rounds = federation.total_rounds
    lines = [
        f"target        client-level epsilon {budget.epsilon:g} at delta {budget.delta:g} ({relation})",
        f"schedule      {rounds} rounds, {_expected(train):g} of {train.clients} clients expected a round",
        f"noise         {noise:.5g} times the clipping norm {budget.clip:g}, on the sum of updates",
        f"proven        epsilon between {bound.lower:.5g} and {bound.upper:.5g} ({bound.method})",
        f"signal        {numbers:,} trained numbers: noise-to-signal ratio {ratio.ratio:.3g} a round",
    ]
    if federation.groups.bands > 1:
        turns = federation.groups
        lines[2:2] = [f"groups        {turns.bands}; a client's comes at most {turns.rounds_of_one(rounds)} times"]
        lines[4:4] = [f"banded        in the model as loud as independent noise of {noise * loudness:.5g}, on average"]
    planned = claims.planned(federation, federation.planned_event, LIVE_GRID)
    if void := claims.claimed("client", planned.statements)[1]:
        lines.insert(-1, f"claim         nothing, whatever the noise: {void}")
    if ratio.warning:
        lines.append(ratio.warning)
    lines += ["", "rounds   noise multiplier   noise-to-signal ratio"]
    for count in sorted({max(1, train.rounds // 4), max(1, train.rounds // 2), train.rounds, 2 * train.rounds}):
        other = dataclasses.replace(
            plan,
            train=dataclasses.replace(train, rounds=count),
            privacy=dataclasses.replace(plan.privacy, client=dataclasses.replace(budget, noise_multiplier=None)),
        )
        found = planning.planned(other).privacy.client
        multiplier = found.noise_multiplier if found is not None else None
        if multiplier is not None:
            loud = calibration.noise_to_signal(multiplier * planning.loudness(other), numbers, _expected(train)).ratio
            lines.append(f"{Federation(other).total_rounds:>6}   {multiplier:>16.4g}   {loud:>21.3g}")
    return "\n".join(lines)


def _expected(train: Train) -> float:
    return train.cohort.rate * train.clients if train.cohort.kind == "poisson" else float(train.cohort.size or 0)
