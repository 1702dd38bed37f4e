"""Calibrated noise meets its target and no less would; the loudness of the noise is said in numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil.checks import UserError
from fedveil.privacy import calibration, gaussian
from fedveil.privacy.accounting.pld import PldAccountant
from fedveil.privacy.calibration import calibrate, noise_multiplier_for, noise_to_signal, update_noise_multiplier
from fedveil.privacy.events import Composed, Event, Gaussian, NonPrivate, PoissonSampled, Repeated


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "rounds", "published"),
    [(3.0, 1e-5, 0.01, 1000, 0.8137), (1.0, 1e-4, 0.1, 100, 3.3804)],
)
def test_noise_meets_the_target_and_is_the_published_one(
    epsilon: float, delta: float, rate: float, rounds: int, published: float
) -> None:
    found = noise_multiplier_for(epsilon, delta, rate, rounds)
    assert found.bound.upper is not None
    assert 0.998 * epsilon < found.bound.upper <= epsilon
    assert found.noise_multiplier == pytest.approx(published, rel=3e-3)
    less = PoissonSampled(rate, Gaussian(found.noise_multiplier * 0.999))
    assert PldAccountant().compose(less, rounds).upper(delta) > epsilon


@given(epsilon=st.floats(0.05, 60.0), log_delta=st.floats(-16, -3), rounds=st.integers(1, 500))
@settings(max_examples=15, deadline=None)
def test_without_sampling_it_is_the_closed_form(epsilon: float, log_delta: float, rounds: int) -> None:
    delta = math.exp(log_delta)
    exact = math.sqrt(rounds) / gaussian.mu_of(epsilon, delta)
    found = noise_multiplier_for(epsilon, delta, rounds=rounds)
    assert found.bound.upper is not None
    assert found.bound.upper <= epsilon
    assert exact * (1 - 1e-9) <= found.noise_multiplier <= exact * (1 + 2e-4)
    replaced = noise_multiplier_for(epsilon, delta, rounds=rounds, relation="replace-one")
    assert replaced.noise_multiplier == pytest.approx(2 * found.noise_multiplier, rel=3e-4)


def test_a_plan_with_a_fixed_part_leaves_less_for_the_noise() -> None:
    def plan(noise: float) -> Event:
        return Composed((Gaussian(2.0), Repeated(Gaussian(noise), 10)))

    found = calibrate(4.0, 1e-5, plan)
    mu = gaussian.mu_of(4.0, 1e-5)
    assert found.noise_multiplier == pytest.approx(math.sqrt(10 / (mu**2 - 0.25)), rel=3e-4)


def test_impossible_targets_are_refused() -> None:
    for bad in ({"epsilon": 0.0}, {"epsilon": math.inf}, {"delta": 0.0}, {"delta": 1.0}, {"rate": 1.5}, {"rounds": 0}):
        with pytest.raises(UserError):
            noise_multiplier_for(**{"epsilon": 1.0, "delta": 1e-5, **bad})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not enough"):
        calibrate(1.0, 1e-5, lambda noise: Composed((Gaussian(noise), NonPrivate("client", "logs", "no noise"))))


@given(noise=st.floats(0.1, 10.0), margin=st.floats(1.01, 100.0))
def test_update_and_count_together_cost_what_was_planned(noise: float, margin: float) -> None:
    """Both are one Gaussian release of distance (1 / z_update, (1/2) / sigma_b): the length must be 1 / z."""
    count_noise = noise / 2 * margin
    update = update_noise_multiplier(noise, count_noise)
    assert math.hypot(1 / update, 0.5 / count_noise) == pytest.approx(1 / noise, rel=1e-9)
    assert update > noise
    with pytest.raises(UserError):
        update_noise_multiplier(noise, noise / 2)


def test_the_table_values_of_adaptive_clipping() -> None:
    assert update_noise_multiplier(1.0, 5.0) == pytest.approx(1.005037815259212, rel=1e-12)
    assert update_noise_multiplier(1.0, 0.6) == pytest.approx(1.809068067466582, rel=1e-12)


def test_the_ratio_is_that_of_simulated_noise() -> None:
    z, d, cohort, clip = 0.7, 20_000, 60, 0.25
    noise = np.random.default_rng(1).normal(0.0, z * clip, d)
    signal = np.full(d, cohort * clip / math.sqrt(d))
    found = noise_to_signal(z, d, cohort)
    assert found.ratio == pytest.approx(np.linalg.norm(noise) / np.linalg.norm(signal), rel=0.02)


def test_hopeless_noise_comes_with_a_remedy_that_works() -> None:
    found = noise_to_signal(0.8, 280_000, 100)
    assert found.ratio == pytest.approx(4.23, abs=0.01)
    assert found.warning is not None
    assert "424 or more clients" in found.warning
    assert "15,625 parameters" in found.warning
    assert noise_to_signal(0.8, 280_000, 424).warning is None
    assert noise_to_signal(0.8, 15_625, 100).warning is None
    with pytest.raises(UserError):
        noise_to_signal(0.8, 0, 100)


def test_no_noise_is_found_that_hides_nothing():
    found = noise_multiplier_for(200.0, 1e-5, grid=0.01)
    assert found.bound.upper <= 200
    assert found.noise_multiplier == 0.1


def test_a_bound_above_the_target_is_refused_and_not_returned(monkeypatch):
    """Where the search and the accountant of record disagree, whoever asked must not get the noise."""
    monkeypatch.setattr(calibration, "_bisect", lambda *_: (0.1, 0.2))
    with pytest.raises(UserError, match="No noise was found"):
        noise_multiplier_for(0.5, 1e-5, grid=0.01)
