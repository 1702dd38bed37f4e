"""Noise that several owners add in shares, each on the grid: the lemma of docs/secure-aggregation.md, by another road.

The page says that a sum of rounded Gaussians has, up to a factor that is computed here, the law of the continuous
Gaussian of their joint variance after data-independent smoothing and rounding. So continuous bounds would hold for it.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from fedveil.privacy import exact
from fedveil.randomness import SecretStream, test_key

REACH = 60  # integers on either side


def rounded(sigma: float) -> NDArray[np.float64]:
    """Return the law of round(N), N of this deviation, on -REACH..REACH."""
    edges = np.arange(-REACH, REACH + 2) - 0.5
    upper = special.ndtr(-np.abs(edges[:-1]) / sigma) - special.ndtr(-np.abs(edges[1:]) / sigma)
    return np.where(edges[:-1] * edges[1:] < 0, special.ndtr(0.5 / sigma) * 2 - 1, np.abs(upper))


def summed(sigmas: list[float]) -> NDArray[np.float64]:
    return functools.reduce(lambda one, other: np.convolve(one, other, "same"), map(rounded, sigmas))


def smoothed(sigmas: list[float]) -> NDArray[np.float64]:
    """Return the law of round(N + U1 + ... + U(n-1)) by quadrature: N of the joint variance, each U uniform, width 1.

    Its value at k is the density of N plus *n* uniforms there: rounding adds the last one.
    """
    count, joint = len(sigmas), math.sqrt(sum(sigma**2 for sigma in sigmas))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    total = np.zeros(2 * REACH + 1)
    for piece in range(count):  # the density of n uniforms is a polynomial between whole numbers (Irwin and Hall)
        x = piece + (nodes + 1) / 2
        terms = [(-1) ** j * math.comb(count, j) * (x - j) ** (count - 1) for j in range(piece + 1)]
        density = np.sum(terms, axis=0) / math.factorial(count - 1)
        places = np.arange(-REACH, REACH + 1)[:, None] - (x - count / 2)[None, :]
        total += (stats.norm.pdf(places / joint) / joint) @ (density * weights / 2)
    return total


def ripple(sigmas: list[float]) -> float:
    """Return the lemma's bound on |log P - log Q|: one factor (1 +- eta) for every share after the first."""
    bound, before = 0.0, sigmas[0] ** 2
    for sigma in sigmas[1:]:
        tau = sigma**2 * before / (sigma**2 + before)
        eta = 2 * sum(math.exp(-2 * math.pi**2 * tau * m**2) for m in range(1, 40))
        bound -= math.log1p(-eta)
        before += sigma**2
    return bound


@pytest.mark.parametrize("sigmas", [[0.6, 0.6], [0.8, 0.5], [0.7, 0.7, 0.7], [1.0] * 4, [1.5] * 5])
def test_a_sum_of_rounded_shares_is_a_rounded_sum_up_to_the_ripple(sigmas: list[float]) -> None:
    found, ideal = summed(sigmas), smoothed(sigmas)
    assert ideal.sum() == pytest.approx(1, abs=1e-12)
    likely = ideal > 1e-12
    worst = np.abs(np.log(found[likely] / ideal[likely])).max()
    assert worst <= ripple(sigmas) + 1e-9
    if ripple(sigmas) > 1e-6:
        assert worst > ripple(sigmas) / 100  # the bound speaks of something


def test_on_the_grid_the_ripple_is_nothing() -> None:
    """Shares of equal scale have 2^29 steps or more; a million owners, a hundred million numbers, a million rounds."""
    least = 2.0**29
    exponent = 2 * math.pi**2 * least**2 / 2  # -log of a share's eta but for its factor 2: tau^2 is at least half
    assert exponent - math.log(1e6 * 1e8 * 1e6 * 4) > 1e18


def test_without_rounding_them_finely_shares_are_not_a_gaussian() -> None:
    """Coarse shares are another law, whose likelihood ratios the accountant would not know."""
    assert ripple([0.4, 0.4]) > 0.5
    coarse = [0.3, 0.3]
    found, ideal = summed(coarse), smoothed(coarse)
    likely = ideal > 1e-9
    assert np.abs(np.log(found[likely] / ideal[likely])).max() > 0.5


def test_exact_draws_of_shares_add_up_to_that_law() -> None:
    """Three shares of one step each, from the sampler that would draw them."""
    draws = 60_000
    stream = SecretStream(test_key(13, "noise in shares"))
    total = exact.rounded("gaussian", stream, np.ones(3 * draws, np.int64)).reshape(3, draws).sum(axis=0)
    expected = smoothed([1.0, 1.0, 1.0]) * draws
    kept = expected > 20
    seen = np.bincount(total + REACH, minlength=2 * REACH + 1)
    rest = (draws - seen[kept].sum(), draws - expected[kept].sum())
    test = stats.chisquare([*seen[kept], rest[0]], [*expected[kept], rest[1]])
    assert test.pvalue > 1e-4
