"""Noise has the law it claims, element by element, and every key its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats

from fedveil.checks import UserError
from fedveil.privacy import noise
from fedveil.randomness import SecretStream, test_key

Draw = Callable[[SecretStream, torch.Tensor], torch.Tensor]
LAWS = [(noise.laplace, stats.laplace), (noise.gaussian, stats.norm)]


def stream(*labels: str | int) -> SecretStream:
    return SecretStream(test_key(7, *labels))


@pytest.mark.parametrize(("draw", "law"), LAWS)
def test_the_law_by_kolmogorov_and_smirnov_and_moments(draw: Draw, law: stats.rv_continuous) -> None:
    scale = torch.tensor([0.001, 1.0, 5000.0])[:, None].expand(3, 40000)
    values = draw(stream("law"), scale)
    assert values.dtype == torch.float64
    for row, b in zip(values, (0.001, 1.0, 5000.0), strict=True):
        unit = row.numpy() / b
        assert stats.kstest(unit, law.cdf).pvalue > 1e-4
        assert abs(unit.mean()) < 5 * law.std() / 200
        assert unit.var() == pytest.approx(law.var(), rel=0.05)
        assert stats.skew(unit) == pytest.approx(0.0, abs=0.15)


@pytest.mark.parametrize(("draw", "law"), LAWS)
def test_elements_and_streams_are_independent(draw: Draw, law: stats.rv_continuous) -> None:
    one, two = draw(stream("a"), torch.ones(20000)), draw(stream("b"), torch.ones(20000))
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([one[1:], one[:-1]]))[0, 1]) < 0.03


@pytest.mark.parametrize(("draw", "law"), LAWS)
def test_a_key_repeats_and_a_stream_continues(draw: Draw, law: stats.rv_continuous) -> None:
    scale = torch.rand(4, 5) + 0.1
    first = stream("same")
    values = draw(first, scale)
    assert torch.equal(values, draw(stream("same"), scale))
    assert not torch.equal(values, draw(first, scale))


@pytest.mark.parametrize(("draw", "law"), LAWS)
def test_the_ends_are_finite_symmetric_and_not_zero(draw: Draw, law: stats.rv_continuous) -> None:
    uniform = [0.5 * 2.0**-52, 1 - 2.0**-53, 0.5 - 2.0**-53, 0.5 + 2.0**-53]

    class Ends(SecretStream):
        def uniform(self, count: int):  # type: ignore[no-untyped-def]
            return torch.tensor(uniform, dtype=torch.float64).numpy()

    values = draw(Ends(bytes(32)), torch.ones(4))
    assert torch.isfinite(values).all()
    assert (values != 0).all()
    assert float(values[0]) == pytest.approx(law.ppf(uniform[0]), rel=1e-6)
    assert float(values[1]) == pytest.approx(-float(values[0]), rel=1e-6)
    assert float(values[3]) == pytest.approx(-float(values[2]), rel=1e-6)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(("draw", "law"), LAWS)
def test_a_bad_scale_is_refused(draw: Draw, law: stats.rv_continuous, bad: float) -> None:
    with pytest.raises(UserError, match="noise scale"):
        draw(stream("bad"), torch.tensor([1.0, bad]))
