"""The attacks on private training: canaries in one step, and many short runs with and without one unit."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

from fedveil import engine
from fedveil.commands.audit.report import LEVEL, Bound
from fedveil.configuration.training_budget import TrainingBudget
from fedveil.federation import claims, private_steps
from fedveil.federation.federation import Federation
from fedveil.privacy import audit, gaussian
from fedveil.privacy.accounting.pld import FINAL_GRID, LIVE_GRID, PldAccountant
from fedveil.privacy.audit import Scores
from fedveil.privacy.events import Event, Gaussian, PoissonSampled, Release, Repeated
from fedveil.privacy.ledger import Row

ONE_STEP = "fedveil_clients.canaries:one_step"
UNSAMPLED = "fedveil_clients.canaries:unsampled"
REPEATS = "fedveil_clients.repeats:runs"
SHAPE = "fedveil_clients.repeats:SHAPE"


def attack(
    federation: Federation, budget: TrainingBudget, rows: Sequence[Row], canaries: int, draws: int, repeats: int,
    seed: int, level: float = LEVEL,
) -> list[Bound]:  # fmt: skip
    """Return the bounds on what private steps claim, on one step of them, and on a short run of several rounds.

    Args:
        federation: of a planned configuration.
        budget: its block for images or people, with noise.
        rows: of the run's ledger, whose claim is audited; without a private round in it the planned schedule's is.
        canaries: how many canaries one step has.
        draws: canaries of steps that draw everybody, on both sides together.
        repeats: short runs on each side.
        seed: of the public audit coins.
        level: of one bound, of the eight there are.
    """
    delta, unit, noise = budget.delta or 0.0, budget.unit, budget.noise_multiplier or 0.0
    spent = booked(rows, unit)
    planned = functools.partial(claims.planned, federation, federation.planned_event, LIVE_GRID)
    claim = claims.claimed(unit, (claims.of_run(federation, rows) if spent else planned()).statements)
    rounds = [row.event for row in spent] or [*federation.private_rounds]
    steps = (federation.settings.train.local.steps or 0) * len(rounds)

    def proven(event: Event) -> float:
        return PldAccountant("zero-out", unit, grid=FINAL_GRID if spent else LIVE_GRID).compose(event).upper(delta)

    def bound(what: str, upper: float, method: str, value: float, scores: Scores, seconds: float) -> Bound:
        trials = scores.present.size + scores.absent.size
        return Bound(what, unit, *claim, upper, delta, value, method, trials, seconds)

    def plain(scores: Scores) -> float:
        return audit.by_halves(scores, lambda counts: audit.clopper_pearson(counts, delta, level))[0]

    def curve(scores: Scores) -> float:
        return audit.by_halves(scores, lambda counts: audit.gaussian_mu(counts, level))[0]

    begun = time.perf_counter()
    seen = engine.load(ONE_STEP)(federation, canaries, seed)
    taken = time.perf_counter() - begun
    begun = time.perf_counter()
    everybody: Scores = engine.load(UNSAMPLED)(federation, draws)
    all_taken, single = time.perf_counter() - begun, curve(everybody)
    begun = time.perf_counter()
    short: Scores = engine.load(REPEATS)(federation, repeats)
    short_taken, shape = time.perf_counter() - begun, engine.load(SHAPE)
    together = proven(Repeated(Gaussian(shape.noise), shape.rounds * shape.steps))
    one = proven(PoissonSampled(budget.sampling_rate, Gaussian(noise)))
    whole = proven(_louder(rounds, 1.0))
    many, sampled, bare = f"{steps} steps, from what one shows", f"one step with {canaries} canaries", "one step of all"
    runs = f"{shape.rounds} rounds of {shape.steps} steps of all, noise {shape.noise:g}, {repeats} with and without one"
    return [
        bound(many, whole, "trade-off curve of canaries in a batch",
              priced(budget, rounds, curve(seen.batch), delta), seen.batch, taken),
        bound(many, whole, "trade-off curve of steps of all",
              priced(budget, rounds, single, delta), everybody, taken),
        bound(sampled, one, "Clopper-Pearson", plain(seen.data), seen.data, taken),
        bound(sampled, one, "one run of many canaries", audit.one_run_of(seen.data, delta, level), seen.data, taken),
        bound(bare, proven(Gaussian(noise)), "Clopper-Pearson", plain(everybody), everybody, all_taken),
        bound(bare, proven(Gaussian(noise)), "trade-off curve", _closed(single, delta), everybody, all_taken),
        bound(runs, together, "Clopper-Pearson", plain(short), short, short_taken),
        bound(runs, together, "trade-off curve", _closed(curve(short), delta), short, short_taken),
    ]  # fmt: skip


def booked(rows: Sequence[Row], unit: str) -> list[Row]:
    """Return the noisy rounds of a unit in a run's ledger."""
    return [row for row in rows if row.status == "spent" and isinstance(row.event, Release) and row.event.unit == unit]


def _closed(mu: float, delta: float) -> float:
    return gaussian.epsilon_of(mu, delta) if mu > 0 else 0.0


def _louder(rounds: Sequence[Event], factor: float) -> Event:
    """Return private rounds together, with `factor` times the noise of each."""
    found: list[Event] = []
    for release in rounds:
        steps = release.event if isinstance(release, Release) else release
        if not (
            isinstance(steps, Repeated)
            and isinstance(steps.event, PoissonSampled)
            and isinstance(steps.event.event, Gaussian)
        ):
            raise ValueError(f"Not a round of private steps: {release}.")
        noisy = Gaussian(steps.event.event.noise_multiplier * factor)
        found.append(Repeated(PoissonSampled(steps.event.rate, noisy), steps.count))
    return private_steps.composed(found)


def priced(budget: TrainingBudget, rounds: Sequence[Event], mu: float, delta: float) -> float:
    """Return what all steps cost at the largest noise that `mu` of one release with the first noise leaves possible."""
    if mu <= 0:
        return 0.0
    louder = _louder(rounds, 1 / (mu * (budget.noise_multiplier or 0.0)))
    return PldAccountant("zero-out", budget.unit, grid=FINAL_GRID).compose(louder).epsilon(delta).lower or 0.0
