"""The hook behind every stage: where it is called, what it may change, and that nothing changes without it."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import pytest
import torch

from fedveil.configuration import plugins
from fedveil.models.backbones.iresnet18 import IResNet18
from fedveil.models.backbones.mobilefacenet import MobileFaceNet
from fedveil.models.backbones.tiny_ir import TinyIR

CASES = {
    "tiny_ir": (TinyIR(width=8, stages=3, embedding=16), [(16, 8), (32, 4), (64, 2)]),
    "iresnet18": (IResNet18(embedding=16), [(64, 16), (128, 8), (256, 4), (512, 2)]),
    "mobilefacenet": (MobileFaceNet(width=0.25, embedding=16), [(16, 16), (16, 8), (32, 4), (128, 2)]),
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def build(name: str) -> Any:
    return CASES[name][0].build(3, (32, 32), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", plugins.names("model"))
def test_every_backbone_takes_a_hook(name: str) -> None:
    built = plugins.build("model", name, {"embedding": 8}).build(3, (16, 16), torch.Generator().manual_seed(1))
    assert inspect.signature(built.forward).parameters["after"].default is None


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_sees_the_last_output_of_every_stage_in_order(name: str) -> None:
    seen = []

    def look(stage: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(stage.shape[1:]))
        return stage

    built = build(name)
    assert torch.equal(built(IMAGES, after=look), built(IMAGES))
    assert seen == [(channels, side, side) for channels, side in CASES[name][1]]


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_it_returns_goes_on(name: str) -> None:
    built = build(name)
    seen = []

    def erase(stage: torch.Tensor) -> torch.Tensor:
        seen.append(float(stage.detach().std()))
        return torch.zeros_like(stage)

    out = built(IMAGES, after=erase)
    assert seen[0] > 0
    assert torch.equal(out[0], out[1]), "behind zeros nothing of the image is left"


@pytest.mark.parametrize("count", [1, 2])
def test_the_stages_of_iresnet18_hold_two_units_each(count: int) -> None:
    built = build("iresnet18")
    x = built.act(built.norm(built.stem(IMAGES)))
    for unit in built.units[: 2 * count]:
        x = unit(x)
    seen = []
    built(IMAGES, after=lambda stage: (seen.append(stage), stage)[1])
    torch.testing.assert_close(seen[count - 1], x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "names_digest"),
    [("tiny_ir", "e29ca45ec363a6bf"), ("iresnet18", "cbd4ba2bd1df7cb6")],
)
def test_the_tensors_of_a_checkpoint_keep_their_names(name: str, names_digest: str) -> None:
    names = ",".join(name for name, _ in build(name).named_parameters())
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == names_digest
