"""One event's privacy loss distribution, built by dp-accounting (Google).

Pessimistic by connect-the-dots (Doroshenko, Ghazi, Kamath, Kumar and Manurangsi, PETS 2022), optimistic by rounding
every loss down.
"""

from __future__ import annotations

import math

import numpy as np
from dp_accounting.pld import common, pld_pmf
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.privacy_accountant import NeighboringRelation

from fedveil.privacy.accounting import _pairs
from fedveil.privacy.accounting._pairs import Array, Pair


def built(pair: Pair, grid: float, pessimistic: bool) -> list[tuple[int, Array, float]]:
    """Return (index of the first loss, masses, mass of the infinite loss) of each direction; of one if symmetric."""
    found = _build(pair, grid, pessimistic)
    sides = (found._pmf_remove,) if found._symmetric else (found._pmf_remove, found._pmf_add)
    dense = [pmf.to_dense_pmf() for pmf in sides]
    return [
        (int(one._lower_loss), np.maximum(np.asarray(one._probs, dtype=np.float64), 0.0), float(one._infinity_mass))
        for one in dense
    ]


def _build(pair: Pair, grid: float, pessimistic: bool) -> pld.PrivacyLossDistribution:
    settings = {"value_discretization_interval": grid, "pessimistic_estimate": pessimistic}
    dots = {"use_connect_dots": pessimistic}
    match pair:
        case _pairs.Shift():
            return pld.from_gaussian_mechanism(1.0 / pair.mu, **settings, **dots)
        case _pairs.Poisson():
            return pld.from_gaussian_mechanism(pair.sigma, sampling_prob=pair.rate, **settings, **dots)
        case _pairs.PoissonReplaced():
            return pld.from_gaussian_mechanism(
                pair.sigma,
                sampling_prob=pair.rate,
                neighboring_relation=NeighboringRelation.REPLACE_ONE,
                **settings,
                **dots,
            )
        case _pairs.Number():
            return pld.from_laplace_mechanism(1.0 / pair.epsilon, sampling_prob=pair.rate, **settings, **dots)
        case _pairs.Pure():
            parameters = common.DifferentialPrivacyParameters(pair.epsilon, 0.0)
            return pld.from_privacy_parameters(parameters, value_discretization_interval=grid)
        case _pairs.FixedReplaced():
            return _fixed_size(pair, grid)


def _fixed_size(pair: _pairs.FixedReplaced, grid: float) -> pld.PrivacyLossDistribution:
    """Connect the dots of the single pair's profile; it is symmetric, so one distribution serves both directions."""
    mu = 1 / pair.sigma
    top = max(1, math.ceil((mu * mu / 2 + 10 * mu) / grid))
    deltas = np.minimum.accumulate(pair.profile(np.arange(-top, top + 1, dtype=np.float64) * grid))
    return pld.PrivacyLossDistribution(pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(grid, -top, top, deltas))
