"""The Gaussian closed forms against numerical integration, against each other and in their limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from fedveil.checks import UserError
from fedveil.privacy import gaussian


def integrated(epsilon: float, mu: float) -> float:
    """The definition: integral of (p - e^epsilon q)_+ with p = N(mu, 1), q = N(0, 1), positive above one point."""
    start = mu / 2 + epsilon / mu
    value, _ = integrate.quad(
        lambda x: stats.norm.pdf(x - mu) - math.exp(epsilon) * stats.norm.pdf(x), start, start + 40, limit=200
    )
    return value


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("mu", [0.3, 1.0, 1.67, 5.0])
def test_delta_is_the_hockey_stick_divergence(epsilon: float, mu: float) -> None:
    assert gaussian.delta_of(epsilon, mu) == pytest.approx(integrated(epsilon, mu), rel=1e-6, abs=1e-12)


@given(epsilon=st.floats(1e-3, 1e4), log_delta=st.floats(-60, -0.1))
def test_inverses_agree_and_round_to_the_safe_side(epsilon: float, log_delta: float) -> None:
    delta = math.exp(log_delta)
    mu = gaussian.mu_of(epsilon, delta)
    assert gaussian.delta_of(epsilon, mu) <= delta * (1 + 1e-9)
    assert gaussian.delta_of(epsilon, mu * 1.001) > delta
    assert gaussian.epsilon_of(mu, delta) <= epsilon * (1 + 1e-6) + 1e-9
    assert gaussian.epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-6, abs=1e-7)


@given(epsilon=st.floats(0, 1e3), mu=st.floats(1e-6, 1e3), more=st.floats(1e-3, 10))
def test_delta_falls_with_epsilon_and_grows_with_mu(epsilon: float, mu: float, more: float) -> None:
    value = gaussian.log_delta_of(epsilon, mu)
    assert value <= 0
    assert gaussian.log_delta_of(epsilon + more, mu) <= value + 1e-9
    assert gaussian.log_delta_of(epsilon, mu * (1 + more)) >= value - 1e-9


@pytest.mark.parametrize("mu", [1e-300, 1e-20, 1e-9, 1e-3])
def test_small_mu_keeps_full_precision(mu: float) -> None:
    assert gaussian.delta_of(0.0, mu) == pytest.approx(mu / math.sqrt(2 * math.pi), rel=1e-6)


def test_limits() -> None:
    assert gaussian.delta_of(3.0, 0.0) == 0.0
    assert gaussian.delta_of(100.0, 30.0) == pytest.approx(1.0)
    assert gaussian.log_delta_of(1e4, 1.0) < -1e7, "finite where delta underflows"
    assert gaussian.delta_of(5e5, 1000.0) == pytest.approx(0.49960105811853966, rel=1e-9)  # mpmath, 60 digits
    assert gaussian.epsilon_of(1e-9, 0.1) == 0.0
    assert gaussian.mu_of(0.0, 1e-5) == pytest.approx(math.sqrt(2 * math.pi) * 1e-5, rel=1e-6)


@pytest.mark.parametrize(("epsilon", "delta"), [(-1.0, 0.1), (math.nan, 0.1), (1.0, 0.0), (1.0, 1.0), (1.0, -0.1)])
def test_arguments_out_of_range_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(UserError):
        gaussian.mu_of(epsilon, delta)
    with pytest.raises(UserError):
        gaussian.epsilon_of(epsilon, delta)
