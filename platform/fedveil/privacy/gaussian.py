"""Closed forms of the Gaussian mechanism: what N(0, 1) against N(mu, 1) costs, in both directions.

A release whose two neighbouring outputs are Gaussians at distance `mu` (in standard deviations) is exactly mu-GDP, and

    delta(epsilon, mu) = Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu)

is exact, not a bound (Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, theorem
8).
Every value is computed without overflow or cancellation; inverses round towards the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fedveil import checks

_ROOT2 = math.sqrt(2.0)


def _erfcx(x: float) -> float:
    """Return e^(x^2) erfc(x)."""
    return float(torch.special.erfcx(torch.tensor(x, dtype=torch.float64)))


def log_delta_of(epsilon: float, mu: float) -> float:
    """Return the natural logarithm of `delta_of(epsilon, mu)`, finite where delta itself underflows; -inf at mu 0."""
    checks.non_negative(epsilon=epsilon, mu=mu)
    if mu == 0.0:
        return -math.inf
    largest = math.erf(mu / (2 * _ROOT2))  # delta at epsilon 0, the total variation: an upper bound for every epsilon
    if epsilon == 0.0:
        return math.log(largest)
    near, far = mu / 2 - epsilon / mu, mu / 2 + epsilon / mu
    # e^epsilon Phi(-far) = e^(-near^2 / 2) erfcx(far / sqrt 2) / 2, because far^2 / 2 - epsilon = near^2 / 2.
    second = _erfcx(far / _ROOT2)
    if near > 0:
        difference, exponent = 0.5 * math.erfc(-near / _ROOT2) - 0.5 * math.exp(-near * near / 2) * second, 0.0
    else:
        difference, exponent = 0.5 * (_erfcx(-near / _ROOT2) - second), -near * near / 2
    if difference <= 0.0:  # below the resolution of float64: the upper bound is safe
        return math.log(largest) + exponent
    return min(math.log(difference) + exponent, math.log(largest))


def delta_of(epsilon: float, mu: float) -> float:
    """Return the smallest delta at which a mu-GDP release is (epsilon, delta)-DP, in [0, 1].

    Args:
        epsilon: at least 0.
        mu: distance of the two means in standard deviations, at least 0; 0 releases nothing and gives 0.

    Raises:
        UserError: if an argument is negative or not finite.

    >>> round(delta_of(1.0, 1.0), 6)
    0.126937
    """
    return math.exp(log_delta_of(epsilon, mu))


def epsilon_of(mu: float, delta: float) -> float:
    """Return the smallest epsilon (rounded up) at which a mu-GDP release is (epsilon, delta)-DP; 0 if already at 0.

    Raises:
        UserError: unless mu >= 0 is finite and 0 < delta < 1.

    >>> round(epsilon_of(1.0, 1e-5), 3)
    4.377
    """
    _check_delta(delta)
    target = math.log(delta)
    if log_delta_of(0.0, mu) <= target:
        return 0.0
    enough = mu * mu / 2 + mu * math.sqrt(-2 * target) + 1e-9  # tail bound on the privacy loss N(mu^2 / 2, mu^2)
    return _boundary(lambda epsilon: log_delta_of(epsilon, mu) > target, 0.0, enough)[1]


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest mu (rounded down) whose release is (epsilon, delta)-DP.

    Raises:
        UserError: unless epsilon >= 0 is finite and 0 < delta < 1.

    >>> round(mu_of(4.377, 1e-5), 3)
    1.0
    """
    checks.non_negative(epsilon=epsilon)
    _check_delta(delta)
    target = math.log(delta)
    high = 1.0
    while log_delta_of(epsilon, high) <= target:
        high *= 2.0
    return _boundary(lambda mu: log_delta_of(epsilon, mu) <= target, 0.0, high)[0]


def _check_delta(delta: float) -> None:
    checks.positive(delta=delta)
    if delta >= 1:
        raise checks.UserError(f"Expected delta={delta!r} below 1; any release is (0, 1)-DP, which means nothing.")


def _boundary(below: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Bisect to a pair (low, high) of neighbouring floats with below(low) and not below(high)."""
    while True:
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high:
            return low, high
        if below(middle):
            low = middle
        else:
            high = middle
