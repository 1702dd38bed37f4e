"""What book-keeping refuses, by name and with the remedy, and that it computes nothing before it does."""

from __future__ import annotations

import pytest
import torch
from small_networks import LOSS, backbone, batch, classifier_of
from torch import nn

from fedveil import checks
from fedveil.models.backbones import _fused
from fedveil.private_training import base, loop
from fedveil.private_training.book_keeping import BookKeeping


class Wrapped(nn.Module):
    """A convolution, something in the middle, and an embedding."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.embed = nn.Conv2d(3, 4, 3, 2, 1), middle, nn.Linear(64, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(self.middle(self.stem(x)).flatten(1))


class Scale(nn.Module):
    """A parameter of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x))


class Outside(Twice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.conv.weight)


class Tied(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(4, 4, 1)
        self.other.weight = self.conv.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(self.conv(x))


REFUSED = {
    r"middle \(Scale\) has trained tensors \['factor'\] and no rule": Scale,
    r"middle.conv \(Conv2d\) is used twice": Twice,
    r"middle.conv.weight is used outside its module's forward": Outside,
    r"backbone.middle.conv and backbone.middle.other share a tensor": Tied,
    r"middle \(BatchNorm2d\) mixes the images": lambda: nn.BatchNorm2d(4),
    r"middle \(Conv2d\) has trained tensors": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    r"middle \(ParametrizedConv2d\)|middle.parametrizations": lambda: nn.utils.parametrizations.weight_norm(
        nn.Conv2d(4, 4, 1)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_rule_is_refused_by_name(message: str) -> None:
    network = classifier_of(Wrapped(REFUSED[message]()), 8).train()
    tensors = list(network.parameters())
    before = [tensor.detach().clone() for tensor in tensors]
    with pytest.raises(checks.UserError, match=message):
        BookKeeping()(network, LOSS, batch([0, 1], 8), tensors, base.Clip(1.0))
    assert all(tensor.grad is None and tensor.requires_grad for tensor in tensors)
    assert all(bool((tensor == old).all()) for tensor, old in zip(tensors, before, strict=True))
    assert not any("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize("middle", [Scale, Twice, Outside, nn.Identity])
def test_what_is_not_trained_needs_no_rule(middle: type[nn.Module]) -> None:
    network = classifier_of(Wrapped(middle()), 8)
    tensors = [tensor for name, tensor in network.named_parameters() if "middle" not in name]
    there, clip = batch([0, 1, 0], 8), base.Clip(1.0)
    expected = loop.Loop()(network, LOSS, there, tensors, clip)
    found = BookKeeping()(network, LOSS, there, tensors, clip)
    for ours, plain in zip(found.tensors, expected.tensors, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_frozen_layers_save_nothing_and_pass_nothing_back() -> None:
    """Below the lowest trained tensor there is no graph at all."""
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors = [network.backbone.embed.weight, network.head.weight]
    saved: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one.shape) or one, lambda one: one):
        BookKeeping()(network, LOSS, batch([0, 1], 16), tensors, base.Clip(1.0))
    assert all(len(shape) <= 2 for shape in saved), saved


def test_a_tensor_that_the_forward_pass_does_not_reach_has_the_gradient_zero() -> None:
    network = classifier_of(backbone("tiny_ir"), 16)
    network.spare = nn.Linear(3, 3)
    tensors = [network.head.weight, network.spare.weight]
    for engine in (BookKeeping(), loop.Loop()):
        found = engine(network, LOSS, batch([0, 1], 16), tensors, base.Clip(1.0))
        assert not bool(found.tensors[1].any())
        assert bool(found.tensors[0].any())


def test_the_fused_kernel_is_left_alone_while_modules_answer_by_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU in bfloat16 `norm_act` reads parameters itself, where no rule would see them."""
    network = classifier_of(backbone("tiny_ir"), 16)
    tensors = [network.backbone.act.weight]

    def fused(*args: object) -> torch.Tensor:
        raise AssertionError("the fused kernel was called")

    monkeypatch.setattr(_fused, "usable", lambda x, groups: x.shape[1] == 8)
    monkeypatch.setattr(_fused, "group_norm", fused)
    BookKeeping(rows=4)(network, LOSS, batch([0, 1], 16), tensors, base.Clip(1.0))
    with pytest.raises(AssertionError, match="fused kernel"):
        network(batch([0], 16).inputs)
