"""Variants lie at the angles that were asked for; attributes follow the public distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedveil import checks
from fedveil.synthesis import variation


def test_a_variant_has_length_one_and_its_angle() -> None:
    coins = variation.coins(1, [(0, i, 0) for i in range(400)], 12, 2, (4, 4))
    anchors = torch.nn.functional.normalize(torch.randn(400, 12, generator=torch.Generator().manual_seed(1)))
    found = variation.variants(anchors, 0.6, 0.95, coins.uniform, coins.direction)
    cosines = (found * anchors).sum(1)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(400), atol=1e-5, rtol=0)
    torch.testing.assert_close(cosines, 0.6 + 0.35 * coins.uniform, atol=1e-5, rtol=0)
    across = torch.nn.functional.normalize(found - cosines[:, None] * anchors)
    assert across.mean(0).abs().max() < 0.06  # no preferred direction
    assert np.quantile(cosines.numpy(), [0.1, 0.5, 0.9]) == pytest.approx([0.635, 0.775, 0.915], abs=0.03)


def test_a_picture_s_coins_are_its_own() -> None:
    names = [(2, 0, 0), (2, 1, 0), (2, 1, 1), (3, 0, 0)]
    together = variation.coins(1, names, 5, 2, (4, 4))
    for row, name in enumerate(names):
        alone = variation.coins(1, [name], 5, 2, (4, 4))
        for part in ("uniform", "direction", "attributes", "start"):
            assert torch.equal(getattr(alone, part)[0], getattr(together, part)[row])
    first, second = together.fresh(), together.fresh()
    assert len({part[0, 0, 0].item() for noise in (together.start, first, second) for part in noise}) == 12
    assert not torch.equal(variation.coins(2, names, 5, 2, (4, 4)).start, together.start)


def test_attributes_follow_their_distribution_and_are_cut_off() -> None:
    mean, factor = torch.tensor([1.0, 0.0, 3.0]), torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 0]])
    normal = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(1))
    found = variation.drawn_attributes(mean, factor, normal, {})
    assert found.mean(0).numpy() == pytest.approx([1, 0, 3], abs=0.03)
    assert np.cov(found[:, :2].T.numpy()) == pytest.approx(np.array([[1, 0.6], [0.6, 1]]), abs=0.06)
    assert (found - mean).abs().max(0).values.numpy() == pytest.approx([2.5, 2.5, 0], abs=1e-5)
    fixed = variation.drawn_attributes(mean, factor, normal, {1: -0.5})
    assert (fixed[:, 1] == -0.5).all()
    assert torch.equal(fixed[:, 0], found[:, 0])


def test_attributes_go_by_name() -> None:
    assert variation.numbered({"light": -1, "yaw": 2.0}, ("yaw", "light")) == {1: -1.0, 0: 2.0}
    with pytest.raises(checks.UserError, match=r"Unknown attribute 'yav'.* Did you mean 'yaw'"):
        variation.numbered({"yav": 0.0}, ("yaw", "light"))
    with pytest.raises(checks.UserError, match="It has none"):
        variation.numbered({"yaw": 0.0}, ())
    with pytest.raises(checks.UserError, match=r"attributes.yaw=9"):
        variation.numbered({"yaw": 9.0}, ("yaw",))
