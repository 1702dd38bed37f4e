"""Banded noise against dense matrices: sensitivity over all patterns, the law of the noise, streaming, and error."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import linalg, optimize

from fedveil import checks
from fedveil.privacy import banded
from fedveil.privacy.banded import Correlated, Strategy

SIZES = [(1, 1), (5, 2), (8, 3), (9, 4), (3, 7)]


def patterns(rounds: int, separation: int) -> list[tuple[int, ...]]:
    """All sets of rounds at least `separation` apart."""
    every = itertools.chain.from_iterable(itertools.combinations(range(rounds), k) for k in range(1, rounds + 1))
    return [one for one in every if all(b - a >= separation for a, b in itertools.pairwise(one))]


def moved(matrix: NDArray[np.float64], pattern: tuple[int, ...]) -> float:
    """How far contributions of norm 1 in these rounds move C X at most: every sign, as all directions may differ."""
    signs = itertools.product((1.0, -1.0), repeat=len(pattern))
    return max(float(np.linalg.norm(matrix[:, list(pattern)] @ np.array(one))) for one in signs)


@pytest.mark.parametrize(("rounds", "bands"), SIZES)
def test_no_allowed_pattern_moves_more_than_the_stated_sensitivity(rounds: int, bands: int) -> None:
    chosen = banded.strategy(rounds, bands)
    matrix = chosen.matrix()
    norms = np.linalg.norm(matrix, axis=0)
    assert (norms <= 1).all()
    assert norms == pytest.approx(1, abs=1e-12)
    worst: dict[int, float] = {}
    for pattern in patterns(rounds, bands):
        worst[len(pattern)] = max(worst.get(len(pattern), 0.0), moved(matrix, pattern))
    for count, found in worst.items():
        assert found == pytest.approx(chosen.sensitivity(count), abs=1e-9)
    assert max(worst) == -(-rounds // bands)


def test_participations_that_are_too_close_move_more() -> None:
    """What separation is for: with one round less between them two columns share rows."""
    chosen = banded.strategy(8, 3)
    assert max(moved(chosen.matrix(), one) for one in patterns(8, 2) if len(one) == 2) > chosen.sensitivity(2) + 0.1


@pytest.mark.parametrize(("rounds", "bands"), SIZES)
def test_streaming_is_the_explicit_inverse_times_the_rows(rounds: int, bands: int) -> None:
    chosen = banded.strategy(rounds, bands)
    rows = torch.randn(rounds, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = rows.clone()
    stream = Correlated(chosen)
    found = torch.stack([stream.next(row) for row in rows]).numpy()
    np.testing.assert_allclose(found, np.linalg.inv(chosen.matrix()) @ rows.numpy(), atol=1e-12)
    assert torch.equal(rows, kept)
    with pytest.raises(checks.UserError, match=f"rounds={rounds}"):
        stream.next(rows[0])


def test_rows_have_the_variance_of_the_inverse_and_cancel_in_sums() -> None:
    chosen, draws = banded.strategy(12, 4), 40_000
    stream, generator = Correlated(chosen), torch.Generator().manual_seed(2)
    fresh = torch.randn(12, draws, dtype=torch.float64, generator=generator)
    rows = np.stack([stream.next(row).numpy() for row in fresh])
    inverse = np.linalg.inv(chosen.matrix())
    slack = 5 * math.sqrt(2 / draws)
    assert (rows**2).mean(1) == pytest.approx((inverse**2).sum(1), rel=slack)
    assert (rows.cumsum(0) ** 2).mean() == pytest.approx(chosen.error(), rel=slack)
    # Whitened, they are independent again: that is all the adversary sees beside the updates.
    assert np.cov(chosen.matrix() @ rows) == pytest.approx(np.eye(12), abs=slack)


def error_of(matrix: NDArray[np.float64]) -> float:
    sums = np.tril(np.ones_like(matrix)) @ np.linalg.inv(matrix)
    return float((sums**2).sum() / len(matrix))


@pytest.mark.parametrize(("rounds", "bands"), SIZES)
def test_the_error_is_that_of_dense_matrices(rounds: int, bands: int) -> None:
    assert banded.strategy(rounds, bands).error() == pytest.approx(error_of(banded.strategy(rounds, bands).matrix()))


def best_banded(rounds: int, bands: int) -> float:
    """The error of the best banded matrix with equal columns, Toeplitz or not, by a general optimiser."""
    rows, columns = np.nonzero(np.tril(np.ones((rounds, rounds))) - np.tril(np.ones((rounds, rounds)), -bands))

    def dense(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.zeros((rounds, rounds))
        found[rows, columns] = values
        return found / np.linalg.norm(found, axis=0)

    start = linalg.toeplitz(1.0 / (1 + np.arange(rounds)))[rows, columns]
    return float(optimize.minimize(lambda values: error_of(dense(values)), start).fun)


@pytest.mark.parametrize(("rounds", "bands"), [(6, 2), (8, 3), (10, 4)])
def test_more_bands_are_better_and_no_banded_matrix_is_much_better(rounds: int, bands: int) -> None:
    found = banded.strategy(rounds, bands).error()
    assert found < banded.strategy(rounds, bands - 1).error() <= (rounds + 1) / 2 + 1e-9
    assert best_banded(rounds, bands) <= found * (1 + 1e-6)
    assert found < 1.035 * best_banded(rounds, bands)
    assert banded.strategy(rounds, bands).loudness() == pytest.approx(math.sqrt(found / ((rounds + 1) / 2)))


def test_one_band_is_independent_noise() -> None:
    stream, row = Correlated(banded.strategy(3, 1)), torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert all(torch.allclose(stream.next(row), row, rtol=1e-14, atol=0) for _ in range(3))
    assert banded.strategy(3, 1).error() == pytest.approx(2.0)


def test_impossible_strategies_are_refused() -> None:
    for rounds, bands in [(0, 2), (3, 0)]:
        with pytest.raises(checks.UserError, match="> 0"):
            banded.strategy(rounds, bands)
    with pytest.raises(checks.UserError, match="first_coefficient=0"):
        Strategy((0.0, 1.0), 3)
