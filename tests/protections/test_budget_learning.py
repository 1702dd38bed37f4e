"""The hand-written optimiser and the public unit noise against their textbook forms."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fedveil.protections import _learn


def test_adam_equals_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    start, target = torch.randn(7, generator=generator), torch.randn(7, generator=generator)
    ours, theirs = start.clone().requires_grad_(True), start.clone().requires_grad_(True)
    reference = torch.optim.Adam([theirs], lr=0.05)
    optimiser = _learn.Adam([([ours], 0.05)])
    for _ in range(30):
        for values in (ours, theirs):
            torch.autograd.backward((values - target).pow(4).sum())
        optimiser.step()
        reference.step()
        reference.zero_grad()
        assert ours.grad is None
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_adam_leaves_parameters_without_gradient_alone() -> None:
    unused = torch.ones(3, requires_grad=True)
    _learn.Adam([([unused], 1.0)]).step()
    assert torch.equal(unused.detach(), torch.ones(3))


def test_minimise_finds_the_minimum() -> None:
    value = torch.tensor([5.0], requires_grad=True)
    _learn.minimise(lambda: (value - 2).square().sum(), [value], steps=400, lr=0.1)
    assert float(value.detach()) == pytest.approx(2.0, abs=1e-2)


@pytest.mark.parametrize(("name", "law"), [("laplace", stats.laplace(scale=0.5**0.5)), ("gaussian", stats.norm())])
def test_unit_noise_has_variance_one_and_its_law(name: str, law: stats.rv_continuous) -> None:
    noise = _learn.unit_noise(torch.zeros(30000), name, torch.Generator().manual_seed(2))
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise.numpy(), law.cdf).pvalue > 1e-4
    assert float(noise.var()) == pytest.approx(1.0, rel=0.05)
