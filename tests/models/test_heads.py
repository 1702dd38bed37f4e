"""Margin heads against loops with angles, finite differences and the geometry of the circle."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil import checks
from fedveil.configuration import plugins
from fedveil.models.heads import base
from fedveil.models.heads.arcface import ArcFace
from fedveil.models.heads.cosface import CosFace

HEADS = [ArcFace(scale=16.0, margin=0.5), ArcFace(scale=4.0, margin=2.0), CosFace(scale=16.0, margin=0.4)]


def right_logit(head: ArcFace | CosFace, cosine: float) -> float:
    """Return the right class's logit by way of the angle."""
    if isinstance(head, CosFace):
        return head.scale * (cosine - head.margin)
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if angle + head.margin < math.pi:
        return head.scale * math.cos(angle + head.margin)
    return head.scale * (cosine - head.margin * math.sin(math.pi - head.margin))


def naive_loss(head: ArcFace | CosFace, embeddings: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> float:
    total = 0.0
    for embedding, label in zip(embeddings, labels, strict=True):
        logits = []
        for k, centre in enumerate(centres):
            cosine = float(embedding @ centre / (math.hypot(*embedding) * math.hypot(*centre)))
            logits.append(right_logit(head, cosine) if k == label else head.scale * cosine)
        total += math.log(sum(math.exp(logit - logits[label]) for logit in logits))
    return total / len(labels)


def test_every_head_is_covered() -> None:
    assert plugins.names("head") == ["arcface", "cosface"]


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_loss_and_gradient_equal_a_loop_over_angles(head: ArcFace | CosFace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings, centres, labels = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.integers(0, 5, 4)
    moving = torch.tensor(embeddings, requires_grad=True)
    moving_centres = torch.tensor(centres, requires_grad=True)
    value = base.loss(head, moving, moving_centres, torch.tensor(labels))
    assert value.item() == pytest.approx(naive_loss(head, embeddings, centres, labels), rel=1e-6, abs=1e-6)
    for array, leaf in ((embeddings, moving), (centres, moving_centres)):
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        for index in ((0, 0), (1, 2), (3, 1)):
            step = 1e-6
            at = array[index]
            array[index] = at + step
            above = naive_loss(head, embeddings, centres, labels)
            array[index] = at - step
            below = naive_loss(head, embeddings, centres, labels)
            array[index] = at
            # ArcFace jumps where t + m = pi; a difference taken across the jump measures no slope.
            if abs(above - below) < 1e-3:
                assert gradient[index].item() == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_the_circle(head: ArcFace | CosFace, dtype: torch.dtype) -> None:
    angles = torch.linspace(-math.pi, math.pi, 721, dtype=dtype)
    points = torch.stack([angles.cos(), angles.sin()], 1) * 3.0
    centres = torch.tensor([[2.0, 0.0], [0.0, 0.5]], dtype=dtype)
    logits = head.logits(base.cosine(points, centres), torch.zeros(len(points), dtype=torch.int64))
    tolerance = 1e-2 if dtype == torch.float32 else 5e-3  # the clamp moves the sine by at most 4.5e-4 (times scale)
    for angle, (right, wrong) in zip(angles.tolist(), logits.tolist(), strict=True):
        if isinstance(head, CosFace) or abs(abs(angle) + head.margin - math.pi) > 1e-3:
            assert right == pytest.approx(right_logit(head, math.cos(angle)), abs=tolerance)
        assert wrong == pytest.approx(head.scale * math.sin(angle), abs=tolerance)
    assert (logits[:, 0] < head.scale * angles.cos()).all()  # the margin makes the task harder everywhere


@pytest.mark.parametrize("head", [ArcFace(64.0, 0.5), ArcFace(32.0, 0.3), CosFace(64.0, 0.4)])
def test_right_logit_falls_with_the_angle(head: ArcFace | CosFace) -> None:
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    logits = head.logits(angles.cos()[:, None], torch.zeros(2001, dtype=torch.int64))[:, 0]
    assert (logits.diff() < 1e-2).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 + 2e-7, -1.0 - 2e-7, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_and_pulls_inwards(head: ArcFace | CosFace, cosine: float, dtype: torch.dtype) -> None:
    cosines = torch.tensor([[cosine, 0.3]], dtype=dtype, requires_grad=True)
    logits = head.logits(cosines, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, torch.tensor([0])), cosines)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 1] >= 0
    if not (isinstance(head, ArcFace) and head.margin > math.pi / 2):  # past a right angle cos(t + m) turns at t = 0
        assert gradient[0, 0] <= 0


def test_no_margin_is_plain_softmax() -> None:
    cosines = torch.tensor([[0.2, -0.7, 0.9]])
    for head in (ArcFace(scale=3.0, margin=0.0), CosFace(scale=3.0, margin=0.0)):
        torch.testing.assert_close(head.logits(cosines, torch.tensor([2])), 3.0 * cosines)


def test_cosine_ignores_lengths_and_survives_zero_vectors() -> None:
    generator = torch.Generator().manual_seed(1)
    embeddings, centres = torch.randn(3, 8, generator=generator), torch.randn(2, 8, generator=generator)
    torch.testing.assert_close(base.cosine(1e3 * embeddings, 1e-3 * centres), base.cosine(embeddings, centres))
    embeddings[1] = 0.0
    centres[0] = 0.0
    embeddings.requires_grad_()
    centres.requires_grad_()
    cosines = base.cosine(embeddings, centres)
    assert torch.equal(cosines[1].detach(), torch.zeros(2))
    assert torch.equal(cosines[:, 0].detach(), torch.zeros(3))
    gradients = torch.autograd.grad(cosines.sum(), (embeddings, centres))
    assert all(torch.isfinite(gradient).all() and gradient.abs().max() < 1e3 for gradient in gradients)


@pytest.mark.parametrize(
    ("head", "change"),
    [
        (ArcFace(), {"scale": 0.0}),
        (ArcFace(), {"margin": -0.1}),
        (ArcFace(), {"margin": math.pi}),
        (ArcFace(), {"margin": math.nan}),
        (CosFace(), {"scale": math.inf}),
        (CosFace(), {"margin": 1.5}),
    ],
)
def test_bad_settings_are_refused_by_name(head: ArcFace | CosFace, change: dict[str, float]) -> None:
    with pytest.raises(checks.UserError, match=next(iter(change))):
        dataclasses.replace(head, **change)
