"""Every engine against the loop over units, and the clip against its promise."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import BACKBONES, LOSS, apart, backbone, batch, classifier_of, flat, random_backbone

from fedveil import checks
from fedveil.private_training import _products, _shares, base, choice, loop
from fedveil.private_training.book_keeping import BookKeeping
from fedveil.private_training.opacus_ghost import OpacusGhost
from fedveil.private_training.opacus_hooks import OpacusHooks

KINDS: tuple[base.Kind, ...] = ("whole", "layers", "automatic")
VIEWS = [2, 0, 2, 0, 4, 1, 2]  # unit 3 has no row
ENGINES = [BookKeeping(), BookKeeping(rows=2), OpacusHooks()]


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_agree_with_the_loop(seed: int) -> None:
    """Float64 to 1e-12 says that the rules are right; float32 is held to 1e-6 of the float64 result."""
    clip = base.Clip(0.5, KINDS[seed % 3])
    network = classifier_of(random_backbone(seed), 8, torch.float64)
    tensors = list(network.parameters())
    for units in (range(5), VIEWS):
        there = batch(list(units), 8, dtype=torch.float64)
        expected = loop.Loop()(network, LOSS, there, tensors, clip)
        for rows in (None, 1, 3):
            assert max(apart(BookKeeping(rows)(network, LOSS, there, tensors, clip), expected)) < 1e-12
        single = classifier_of(random_backbone(seed), 8)
        found = BookKeeping()(single, LOSS, batch(list(units), 8), list(single.parameters()), clip)
        assert found.tensors[0].dtype == torch.float32
        norms, sums = apart(found, expected)
        assert norms < 1e-6
        assert sums < 4e-6


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("units", [[0, 1, 2], [1, 0, 1]], ids=["images", "views"])
def test_every_backbone_agrees_with_the_loop(name: str, units: list[int]) -> None:
    size = BACKBONES[name][1]
    network = classifier_of(backbone(name), size, torch.float64)
    tensors, there, clip = list(network.parameters()), batch(units, size, dtype=torch.float64), base.Clip(1.0)
    expected = loop.Loop()(network, LOSS, there, tensors, clip)
    assert max(apart(BookKeeping()(network, LOSS, there, tensors, clip), expected)) < 1e-12
    network, there = network.float(), batch(units, size)
    single = BookKeeping()(network, LOSS, there, tensors, clip)
    rounding = apart(loop.Loop()(network, LOSS, there, tensors, clip), expected)
    for ours, plain in zip(apart(single, expected), rounding, strict=True):  # a deep network rounds, whoever runs it
        assert ours < 1e-6 + 3 * plain


@pytest.mark.parametrize("kind", KINDS)
def test_opacus_agrees_in_norms_and_sums(kind: base.Kind) -> None:
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors, clip = list(network.parameters()), base.Clip(1.0, kind)
    for units in ([0, 1, 2, 3], VIEWS):
        there = batch(units, 16)
        ours = BookKeeping()(network, LOSS, there, tensors, clip)
        assert apart(OpacusHooks()(network, LOSS, there, tensors, clip), ours) == pytest.approx((0, 0), abs=2e-6)
    if kind != "layers":
        there = batch([0, 2, 1], 16)
        expected = BookKeeping()(network, LOSS, there, tensors, clip)
        assert apart(OpacusGhost()(network, LOSS, there, tensors, clip), expected) == pytest.approx((0, 0), abs=4e-6)
    assert not any(hasattr(tensor, "grad_sample") or tensor.grad is not None for tensor in tensors)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_what_opacus_does_not_know_is_refused() -> None:
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors = list(network.parameters())
    with pytest.raises(checks.UserError, match="units of several rows"):
        OpacusGhost()(network, LOSS, batch([0, 0], 16), tensors, base.Clip(1.0))
    with pytest.raises(checks.UserError, match="kind='layers'"):
        OpacusGhost()(network, LOSS, batch([0, 1], 16), tensors, base.Clip(1.0, "layers"))
    with pytest.raises(checks.UserError, match="evaluation mode"):
        OpacusHooks()(network.eval(), LOSS, batch([0, 1], 16), tensors, base.Clip(1.0))


@pytest.mark.parametrize("chosen", [["units.1.conv2.weight"], ["norm1.bias", "head.weight"], ["stem.weight"]])
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_a_subset_of_tensors_is_clipped_by_its_own_norm(engine: base.Engine, chosen: list[str]) -> None:
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors = [tensor for name, tensor in network.named_parameters() if any(name.endswith(end) for end in chosen)]
    there, clip = batch(VIEWS, 16), base.Clip(0.3)
    assert tensors
    before = [tensor.requires_grad for tensor in network.parameters()]
    expected = loop.Loop()(network, LOSS, there, tensors, clip)
    assert max(apart(engine(network, LOSS, there, tensors, clip), expected)) < 3e-6
    assert [tensor.requires_grad for tensor in network.parameters()] == before


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_the_sum_does_not_depend_on_how_a_batch_is_cut(rows: int) -> None:
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors, there, clip = list(network.parameters()), batch(VIEWS, 16), base.Clip(1.0)
    whole = BookKeeping(rows=100)(network, LOSS, there, tensors, clip)
    assert max(apart(BookKeeping(rows)(network, LOSS, there, tensors, clip), whole)) < 2e-6
    parts = [0, 2, 3]  # physical batches of whole units
    total = torch.zeros(sum(tensor.numel() for tensor in tensors), dtype=torch.float64)
    for first, end in zip(parts, [*parts[1:], 5], strict=True):
        rows_ = (there.unit >= first) & (there.unit < end)
        cut = base.Batch(
            there.inputs[rows_], there.labels[rows_], there.unit[rows_] - first, there.weight[rows_], end - first
        )
        total += flat(BookKeeping()(network, LOSS, cut, tensors, clip).tensors)
    torch.testing.assert_close(total, flat(whole.tensors), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_one_unit_more_moves_the_sum_by_at_most_the_bound(seed: int, kind: base.Kind) -> None:
    """Whatever the unit's images are: huge, tiny, not finite; and whatever the others are."""
    bound = [0.01, 1.0, 30.0][seed % 3]
    network = classifier_of(random_backbone(seed), 8)
    tensors, clip = list(network.parameters()), base.Clip(bound, kind)
    there = batch(VIEWS, 8, seed=seed)
    for unit, value in ((2, None), (0, 1e4), (4, math.nan), (1, math.inf), (4, 1e-20), (1, 1e30)):
        inputs = there.inputs.clone()
        if value is not None:
            inputs[there.unit == unit] *= value
        rest = there.unit != unit
        with_ = base.Batch(inputs, there.labels, there.unit, there.weight, there.units)
        without = base.Batch(inputs[rest], there.labels[rest], there.unit[rest], there.weight[rest], there.units)
        for engine in (BookKeeping(), BookKeeping(rows=3), loop.Loop()):
            moved = flat(engine(network, LOSS, with_, tensors, clip).tensors)
            moved = moved - flat(engine(network, LOSS, without, tensors, clip).tensors)
            assert bool(torch.isfinite(moved).all())
            assert float(moved.norm()) <= bound * (1 + 1e-6), (unit, value)


@pytest.mark.parametrize("engine", [*ENGINES, OpacusGhost()], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_an_image_that_is_not_finite_leaves_the_others_alone(engine: base.Engine, value: float) -> None:
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors, clip, there = list(network.parameters()), base.Clip(1.0), batch([3, 1, 0, 2], 16)
    there.inputs[1, 0, 2, 3] = value
    expected = loop.Loop()(network, LOSS, there, tensors, clip)
    found = engine(network, LOSS, there, tensors, clip)
    assert bool(torch.isfinite(flat(found.tensors)).all())
    torch.testing.assert_close(flat(found.tensors), flat(expected.tensors), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.norms, expected.norms, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("units", [0, 3])
@pytest.mark.parametrize("name", choice.names())
def test_an_empty_batch_is_zero(name: str, units: int) -> None:
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors = list(network.parameters())
    found = choice.engine(name)(network, LOSS, batch([], 16, units), tensors, base.Clip(1.0))
    assert [tensor.shape for tensor in found.tensors] == [tensor.shape for tensor in tensors]
    assert not bool(flat(found.tensors).any())
    assert found.norms.tolist() == [0.0] * units


def test_bfloat16_networks_keep_norms_and_sums_in_float32() -> None:
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors, clip, there = list(network.parameters()), base.Clip(1.0), batch(VIEWS, 16)
    exact = BookKeeping()(network, LOSS, there, tensors, clip)
    network.precision = "bf16"
    found = BookKeeping()(network, LOSS, there, tensors, clip)
    assert {tensor.dtype for tensor in [*found.tensors, found.norms]} == {torch.float32}
    norms, sums = apart(found, exact)
    assert norms < 0.05
    assert sums < 0.1
    for unit in range(there.units):  # what is added is what the norm was taken of
        rows = there.unit == unit
        if bool(rows.any()):
            alone = base.Batch(
                there.inputs[rows], there.labels[rows], torch.zeros_like(there.unit[rows]), there.weight[rows], 1
            )
            one = BookKeeping()(network, LOSS, alone, tensors, clip)
            assert float(flat(one.tensors).norm()) == pytest.approx(min(1.0, float(one.norms)), rel=1e-5)


@pytest.mark.parametrize("units", [[0, 1], [0, 0]])
def test_what_cancels_in_a_gram_product_is_not_lost(units: list[int]) -> None:
    """The gradient is a thousandth of its terms: in float32 the norm by the Gram trick would be off by 1e-3."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, 16, 50, generator=generator) + 100.0
    outputs = torch.randn(2, 16, 20, generator=generator)
    outputs -= outputs.mean(1, keepdim=True)
    made = torch.einsum("ntp,ntd->npd", outputs.double(), inputs.double())
    part = _shares.Part(torch.tensor(units), [(0, 1), (1, 2)] if units == [0, 1] else [(0, 2)])
    expected = part.by_unit(made).flatten(1).square().sum(1)
    torch.testing.assert_close(_products.gram_squares(inputs, outputs, part), expected, rtol=1e-9, atol=0.0)
