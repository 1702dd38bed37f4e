"""Budget shapes: mean 1, capped, floored, in the order of the logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedveil.protections import _shape

logits = arrays.arrays("float64", (63, 2, 3), elements=st.floats(-40, 40))


@given(logits=logits, cap=st.floats(1.0, 300.0))
def test_mean_cap_floor_and_order(logits: np.ndarray, cap: float) -> None:
    weights = _shape.weights_of(torch.from_numpy(logits), cap)
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-9)
    assert float(weights.max()) <= cap * (1 + 1e-12)
    assert float(weights.min()) >= _shape.FLOOR * (1 - 1e-9)
    order = np.argsort(logits.ravel())
    assert (np.diff(weights.flatten().numpy()[order]) >= -1e-9).all()


def test_uniform_logits_give_ones_and_loose_caps_the_softmax() -> None:
    assert torch.allclose(_shape.weights_of(torch.full((189, 1, 1), 3.0), 1.5), torch.ones(189, 1, 1))
    values = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    expected = (1 - _shape.FLOOR) * 4 * torch.softmax(values, 0) + _shape.FLOOR
    assert torch.allclose(_shape.weights_of(values, 4.0), expected)


def test_water_filling_by_hand() -> None:
    # Shares 0.6, 0.3, 0.05, 0.05 of K = 4 under a cap of 1.5: both large ones end at the cap, the rest shares 1.
    values = torch.tensor([0.6, 0.3, 0.05, 0.05], dtype=torch.float64).log()
    assert _shape.weights_of(values, 1.5).tolist() == pytest.approx([1.5, 1.5, 0.5, 0.5])
    assert _shape.weights_of(values, 1.0).tolist() == [1.0] * 4


def test_the_gradient_equals_finite_differences() -> None:
    values = (
        torch.randn(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64).mul(2).requires_grad_(True)
    )
    assert torch.autograd.gradcheck(lambda logits: _shape.weights_of(logits, 3.0), values)


def test_the_picture_puts_channels_at_their_frequencies() -> None:
    weights = torch.arange(6.0).view(6, 1, 1).expand(6, 2, 2)
    picture = _shape.picture(weights, (1, 9))
    assert picture.shape == (3, 8, 8)
    assert picture[1, 0, 1] == 2
    assert picture[2, 1, 1] == 5
    assert np.isnan(picture).sum() == 3 * 62
