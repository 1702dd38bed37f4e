"""Lower bounds on epsilon: published reference values, and mechanisms whose true epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedveil import checks
from fedveil.privacy import audit, gaussian
from fedveil.privacy.audit import Counts, Scores

DELTA = 1e-5


@pytest.mark.parametrize(
    ("counts", "epsilon"),
    [(Counts(900, 1000, 20, 1000), 3.355), (Counts(1000, 1000, 0, 1000), 5.601), (Counts(100, 100, 0, 100), 3.281)],
)
def test_clopper_pearson_reference_values(counts: Counts, epsilon: float) -> None:
    assert audit.clopper_pearson(counts, DELTA) == pytest.approx(epsilon, abs=6e-4)


def test_gaussian_reference_value() -> None:
    mu = audit.gaussian_mu(Counts(900, 1000, 20, 1000))
    assert mu == pytest.approx(3.044, abs=6e-4)
    assert gaussian.epsilon_of(mu, DELTA) == pytest.approx(16.99, abs=6e-3)


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "epsilon"),
    [(1000, 100, 95, 2.165), (1000, 200, 150, 0.820), (1000, 100, 100, 3.465), (5000, 200, 180, 1.786),
     (100, 50, 45, 1.393)],
)  # fmt: skip
def test_one_run_reference_values(canaries: int, guesses: int, correct: int, epsilon: float) -> None:
    assert audit.one_run(canaries, guesses, correct, DELTA) == pytest.approx(epsilon, abs=6e-4)


def test_nothing_learnt_is_zero_and_more_is_never_less() -> None:
    assert audit.clopper_pearson(Counts(50, 100, 50, 100), DELTA) == 0.0
    assert audit.gaussian_mu(Counts(100, 100, 100, 100)) == 0.0
    assert audit.gaussian_mu(Counts(0, 100, 0, 100)) == 0.0
    assert audit.one_run(100, 0, 0, DELTA) == 0.0
    found = audit.clopper_pearson(Counts(np.arange(1001), 1000, np.full(1001, 20), 1000), DELTA)
    assert (np.diff(found[30:]) >= 0).all()
    values = [audit.one_run(1000, 100, correct, DELTA) for correct in range(50, 101, 5)]
    assert values == sorted(values)
    assert audit.one_run(1000, 100, 95, 1e-3) < audit.one_run(1000, 100, 95, DELTA) < audit.one_run(1000, 100, 95, 0.0)


def test_misuse_is_refused() -> None:
    with pytest.raises(checks.UserError, match="guesses=5"):
        audit.one_run(10, 5, 6, DELTA)
    with pytest.raises(checks.UserError, match="level=1"):
        audit.clopper_pearson(Counts(1, 2, 1, 2), DELTA, level=1.0)
    with pytest.raises(checks.UserError, match="absent=0"):
        Counts(1, 2, 0, 0)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_bounds_exceed_the_truth_of_a_gaussian_at_most_at_their_level(mu: float) -> None:
    rng = np.random.default_rng(1)
    repeats, trials, threshold = 4000, 1000, mu / 2
    hit, alarm = (0.5 * math.erfc((threshold - mean) / math.sqrt(2)) for mean in (mu, 0.0))
    counts = Counts(rng.binomial(trials, hit, repeats), trials, rng.binomial(trials, alarm, repeats), trials)
    truth = gaussian.epsilon_of(mu, DELTA)
    slack = 4 * math.sqrt(0.05 * 0.95 / repeats)
    assert (audit.gaussian_mu(counts) > mu).mean() <= 0.05 + slack
    assert (audit.clopper_pearson(counts, DELTA) > truth).mean() <= 0.05 + slack
    assert (audit.gaussian_mu(counts, level=0.5) > mu).mean() > 0.05, "the level must matter"


@pytest.mark.parametrize(("mu", "share", "curve_share"), [(0.5, 0.38, 0.85), (1.0, 0.45, 0.9), (2.0, 0.42, 0.95)])
def test_chosen_thresholds_stay_below_the_truth_and_above_a_share_of_it(
    mu: float, share: float, curve_share: float
) -> None:
    """The shares are those of ideal attacks with 10,000 trials on each side; a bound is a matter of luck, so a mean."""
    truth = gaussian.epsilon_of(mu, DELTA)
    plain, curve = [], []
    for repeat in range(20):
        rng = np.random.default_rng(repeat)
        scores = Scores(rng.normal(mu, 1, 20_000), rng.normal(0, 1, 20_000))
        found, counts = audit.by_halves(scores, lambda c: audit.clopper_pearson(c, DELTA))
        assert counts.present == counts.absent == 10_000
        plain.append(found)
        curve.append(audit.by_halves(scores, audit.gaussian_mu)[0])
    assert max(plain) <= truth
    assert np.mean(plain) > share * truth
    assert sum(one > mu for one in curve) <= 4
    assert np.mean(curve) > curve_share * mu


def test_thresholds_are_not_chosen_on_the_trials_that_count() -> None:
    """Pure noise looks like a leak only to whoever picks the threshold on the test itself."""
    above = 0
    for repeat in range(200):
        rng = np.random.default_rng(repeat)
        scores = Scores(rng.normal(size=200), rng.normal(size=200))
        above += audit.by_halves(scores, lambda c: audit.clopper_pearson(c, 0.0))[0] > 0
    assert above <= 20


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_one_run_against_randomised_response(epsilon: float) -> None:
    """Randomised response attains the bound: each coin is reported truly with probability e^eps / (1 + e^eps)."""
    rng = np.random.default_rng(2)
    guesses, repeats = 500, 150
    correct = rng.binomial(guesses, 1 / (1 + math.exp(-epsilon)), repeats)
    found = np.array([audit.one_run(guesses, guesses, int(v), 0.0) for v in correct])
    assert (found > epsilon).mean() <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / repeats)
    assert found.mean() > 0.6 * epsilon


def test_one_run_of_scores_guesses_from_both_ends() -> None:
    rng = np.random.default_rng(3)
    coins = rng.random(1000) < 0.5
    scores = rng.normal(2.0 * coins, 1.0)
    found = audit.one_run_of(Scores(scores[coins], scores[~coins]), DELTA)
    assert 2.0 < found <= gaussian.epsilon_of(2.0, DELTA)
    blind = audit.one_run_of(Scores(scores[:500], scores[500:]), DELTA)
    assert blind < 0.3
