"""How epsilon grew, row by row, as a picture: over the rounds of a run, or over the runs of an owner."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedveil import readback, runs
from fedveil.commands.ledger import report
from fedveil.configuration.schema import Policy
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.pictures import ledger as pictures_ledger
from fedveil.pictures.ledger import Curve
from fedveil.privacy import statements, totals
from fedveil.privacy.accounting import filters
from fedveil.privacy.accounting.pld import LIVE_GRID
from fedveil.privacy.events import Release
from fedveil.privacy.ledger import Ledger, Row

_POINTS = 60  # a curve is priced at no more places than an eye can tell apart


def _places(count: int) -> list[int]:
    """Return at most `_POINTS` whole numbers from 1 to `count`, both included, evenly spread.

    >>> _places(3), len(_places(1000)), _places(1000)[-1]
    ([1, 2, 3], 60, 1000)
    """
    return sorted({round(place) for place in np.linspace(1, count, min(count, _POINTS))})


def of_run(root: Path, run_id: str, path: Path) -> Path:
    """Draw a run's ledger: composed epsilon after each noisy round, and what a picture's release costs throughout.

    Raises:
        fedveil.checks.UserError: no such run.
    """
    run = runs.open_run(root, run_id)
    federation = Federation(readback.settings_of(run))
    curves = run_curves(readback.ledger_of(run).rows(run_id), federation)
    return pictures_ledger.spent(path, curves, f"Spent by run {run_id}", "round", statements.MEANINGFUL)


def run_curves(rows: Sequence[Row], federation: Federation) -> list[Curve]:
    """Return a curve per unit of what a run may claim; the last values are those of its statements."""
    settings, found = federation.settings, claims.of_run(federation, rows).statements
    noisy: dict[str, list[Release]] = {}
    for row in rows:
        if row.status == "spent" and isinstance(row.event, Release):
            noisy.setdefault(row.event.unit, []).append(row.event)
    last = max(map(len, noisy.values()), default=federation.total_rounds)
    curves = []
    for claim in found:
        if claim.epsilon is None:
            reason = f"no formal guarantee:\n{claim.mechanism}"
            curves.append(Curve(f"{claim.unit} level", (), (), reason=reason))
        elif own := [event for event in noisy.get(claim.unit, ()) if event.relation == claim.relation]:
            budget = getattr(settings.privacy, claim.unit)
            target = budget.epsilon if budget is not None else None
            limit = target if target is not None and math.isfinite(target) else None
            places, values = _places(len(own)), []
            for place in places:
                # The coarse grid is quick; the last value is the statement's own, which bounds the earlier ones too.
                rounds = collections.Counter(own[:place]).items()
                spent = claim.epsilon
                if place < len(own):
                    spent = claims.noisy_epsilon(federation, claim.unit, rounds, LIVE_GRID)
                values.append(min(spent, claim.epsilon))
            curves.append(Curve(_title(claim), places, values, limit))
        elif claim.unit == "image" and "identity" not in noisy:  # an identity's has its own
            limit = settings.policy.max_epsilon
            curves.append(Curve(f"{_title(claim)}; released once", [1, last], [claim.epsilon] * 2, limit))
    return curves or [Curve("nothing", (), (), reason="the ledger holds no release of this run")]


def of_owner(root: Path, data_set: str, limits: Policy, path: Path) -> Path:
    """Draw what a data set has spent after each release and each reserved schedule, over all runs.

    Raises:
        fedveil.checks.UserError: an unknown data set, with the nearest.
    """
    curves = owner_curves(root, data_set, limits)
    header, across = f"Spent by data set {data_set}", "release or schedule, in the order of the ledger"
    return pictures_ledger.spent(path, curves, header, across, statements.MEANINGFUL)


def owner_curves(root: Path, data_set: str, limits: Policy) -> list[Curve]:
    """Return a curve per unit of an owner's totals; the last values are those of its statements."""
    history, _ = report.past_of(Ledger(root / "ledger.sqlite"), data_set, limits)
    deltas, curves = report.deltas_of(limits), []
    for claim in totals.of_history(history, deltas):
        if claim.epsilon is None:
            reason = f"no formal guarantee:\n{claim.mechanism}"
            curves.append(Curve(f"{claim.unit} level", (), (), reason=reason))
        elif claim.unit == "image":
            worst = totals.worst_formal(history, deltas.image)
            drawn, steps = worst.local(), worst.training()
            places = _places(len(drawn) + len(steps))
            sums = [
                filters.image_epsilon(drawn[:place], steps[: max(0, place - len(drawn))], deltas.image)
                for place in places
            ]
            curves.append(Curve(_title(claim), places, sums, limits.max_total_epsilon))
        elif claim.unit == "identity":
            steps = totals.worst_formal(history, deltas.image).training()
            places = _places(len(steps))
            sums = [filters.people_epsilon(steps[:place], deltas.image) for place in places]
            curves.append(Curve(_title(claim), places, sums))
        else:
            chosen = totals.client_schedules(history)
            places = _places(len(chosen))
            spent = [totals.client_total(chosen[:place], deltas.client) for place in places]
            values = [one.epsilon for one in spent if one is not None and one.epsilon is not None]
            curves.append(Curve(_title(claim), places, values, limits.max_client_epsilon))
    return curves


def _title(claim: statements.Statement) -> str:
    return f"{claim.unit} level, {claim.relation}, delta = {claim.delta:g}"
