"""Clipping holds for any input, whatever is done to the result's rounding afterwards."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedveil.checks import UserError
from fedveil.privacy import clipping

SHAPE = (3, 4, 2)
anything = arrays.arrays("float64", SHAPE, elements=st.floats(allow_nan=True, allow_infinity=True))
weights_of = arrays.arrays("float64", (4, 2), elements=st.floats(1e-4, 1e4))


def exact_norm(row: list[float], weights: list[float], order: int) -> float:
    """Correctly rounded norm of one row by exact summation."""
    weighted = [abs(w * x) for w, x in zip(weights, row, strict=True)]
    return math.fsum(weighted) if order == 1 else math.hypot(*weighted)


@given(z=anything, weights=weights_of, radius=st.floats(1e-3, 1e6), order=st.sampled_from([1, 2]))
def test_the_norm_never_exceeds_the_radius(z, weights, radius, order) -> None:  # type: ignore[no-untyped-def]
    clipped = clipping.clip_norm(torch.from_numpy(z), torch.from_numpy(weights), radius, order)
    assert clipped.shape == SHAPE
    flat = weights.ravel().tolist()
    for rounded in (clipped, clipped.float().double()):
        for row in rounded:
            assert exact_norm(row.flatten().tolist(), flat, order) <= radius


@pytest.mark.parametrize("order", [1, 2])
def test_many_float32_coefficients_stay_inside(order: int) -> None:
    z = torch.randn(4, 37044, generator=torch.Generator().manual_seed(1)) * 1e4
    weights = torch.rand(37044, generator=torch.Generator().manual_seed(2)) + 0.1
    clipped = clipping.clip_norm(z, weights, 7.0, order).float()
    for row in clipped:
        norm = exact_norm(row.double().tolist(), weights.double().tolist(), order)
        assert 7.0 * (1 - 3e-6) < norm <= 7.0


@pytest.mark.parametrize("order", [1, 2])
def test_short_vectors_do_not_change(order: int) -> None:
    z = torch.tensor([[0.1, -0.2], [0.0, 0.0]])
    clipped = clipping.clip_norm(z, torch.ones(2), 1.0, order)
    assert torch.equal(clipped, z.double())
    assert clipped.dtype == torch.float64


def test_the_direction_is_kept_and_rows_are_independent() -> None:
    z = torch.tensor([[3.0, 4.0], [30.0, -40.0], [0.0, 1e300]], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0])
    together = clipping.clip_norm(z, weights, 2.0, 2)
    for row, alone in zip(together, z, strict=True):
        assert torch.equal(clipping.clip_norm(alone[None], weights, 2.0, 2)[0], row)
    assert float(together[0, 1] / together[0, 0]) == pytest.approx(4 / 3)


def test_non_finite_entries_become_zero_before_the_norm() -> None:
    z = torch.tensor([[math.nan, 0.5, math.inf, -math.inf]])
    assert clipping.clip_norm(z, torch.ones(4), 1.0, 1).tolist() == [[0.0, 0.5, 0.0, 0.0]]


@pytest.mark.parametrize("order", [1, 2])
def test_a_norm_beyond_float64_gives_zero(order: int) -> None:
    z = torch.full((1, 4), 1.7e308, dtype=torch.float64)
    clipped = clipping.clip_norm(z, torch.full((4,), 10.0), 1.0, order)
    assert clipped.tolist() == [[0.0] * 4]


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_radius_is_refused(radius: float) -> None:
    with pytest.raises(UserError, match="radius"):
        clipping.clip_norm(torch.ones(1, 2), torch.ones(2), radius, 1)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_bad_weights_and_orders_are_refused(weight: float) -> None:
    with pytest.raises(UserError, match="weights"):
        clipping.clip_norm(torch.ones(1, 2), torch.tensor([1.0, weight]), 1.0, 1)
    with pytest.raises(UserError, match="order=3"):
        clipping.clip_norm(torch.ones(1, 2), torch.ones(2), 1.0, 3)
