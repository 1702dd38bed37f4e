"""Contracts of every backbone, and what makes one safe to share between clients."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import subprocess
import sys

import pytest
import torch

from fedveil import checks
from fedveil.configuration import plugins
from fedveil.federation import training
from fedveil.models.backbones import _norm
from fedveil.models.backbones.iresnet18 import IResNet18
from fedveil.models.backbones.iresnet50 import IResNet50
from fedveil.models.backbones.mobilefacenet import MobileFaceNet
from fedveil.models.backbones.tiny_ir import TinyIR
from fedveil.models.embedding import embed
from fedveil.models.heads.cosface import CosFace

SMALL = {
    "tiny_ir": TinyIR(width=8, embedding=16),
    "iresnet18": IResNet18(embedding=16),
    "mobilefacenet": MobileFaceNet(width=0.25, embedding=16),
}
NAMES = sorted(SMALL)


def build(name: str, in_channels: int = 3, size: tuple[int, int] = (16, 16), seed: int = 1) -> torch.nn.Module:
    return SMALL[name].build(in_channels, size, torch.Generator().manual_seed(seed))


def fingerprint(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_every_backbone_is_covered() -> None:
    # IResNet-50 and -100 are IResNet-18's network at other depths; building them dozens of times would take minutes.
    assert plugins.names("model") == sorted([*NAMES, "iresnet50", "iresnet100"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_channels", [1, 3, 27])
@pytest.mark.parametrize("size", [(16, 16), (32, 48), (24, 56)])
def test_maps_any_channels_and_sizes_to_the_embedding(name: str, in_channels: int, size: tuple[int, int]) -> None:
    out = build(name, in_channels, size)(torch.zeros(2, in_channels, *size))
    assert out.shape == (2, SMALL[name].embedding)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("side", [16, 24, 40, 64])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("tail", ["flatten", "mean"])
def test_tiny_ir_takes_every_multiple_of_eight(side: int, stages: int, tail: str) -> None:
    model = TinyIR(width=8, stages=stages, embedding=16, tail=tail)
    assert model.build(3, (side, 16), torch.Generator())(torch.zeros(1, 3, side, 16)).shape == (1, 16)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_generator_decides_the_start(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fingerprint(build(name))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert fingerprint(build(name)) == first
    assert fingerprint(build(name, seed=2)) != first


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_finite_has_memory_and_receives_gradient(name: str) -> None:
    network = build(name)
    network(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.device.type == "cpu", parameter_name
        assert torch.isfinite(parameter).all(), parameter_name
        # The GroupNorm without parameters removes the mean, so it alone can silence a constant direction.
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_influence_each_other_and_nothing_is_random_or_remembered(name: str) -> None:
    network = build(name)
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    state = fingerprint(network)
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    assert torch.equal(network(images), together)
    assert fingerprint(network) == state
    assert not list(network.buffers())


@pytest.mark.parametrize("name", NAMES)
def test_signal_keeps_its_scale_at_the_start(name: str) -> None:
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    spread = build(name, size=(32, 32))(images).std()
    assert 0.2 < spread < 5.0


@pytest.mark.parametrize(("model", "units"), [(IResNet18(), (2, 2, 2, 2)), (IResNet50(), (3, 4, 14, 3))])
def test_published_size_of_iresnet(model: IResNet18 | IResNet50, units: tuple[int, ...]) -> None:
    # 24.0 M and 43.6 M parameters with 512 numbers at 112 px, from the layer widths: convolutions, projections, tail.
    convolutions = 3 * 64 * 9
    width = 64
    for channels, count in zip((64, 128, 256, 512), units, strict=True):
        projection = width * channels if width != channels else 0
        convolutions += (width * channels + (2 * count - 1) * channels * channels) * 9 + projection
        width = channels
    total = sum(p.numel() for p in model.build(3, (112, 112), torch.Generator()).parameters() if p.ndim > 1)
    assert total == convolutions + 512 * 7 * 7 * 512
    assert round(total / 1e6) == {2: 24, 3: 44}[units[0]]


def test_tiny_ir_is_tiny() -> None:
    count = sum(p.numel() for p in TinyIR().build(3, (32, 32), torch.Generator()).parameters())
    assert 100_000 < count < 350_000


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (TinyIR(), {"width": 12}),
        (TinyIR(), {"stages": 0}),
        (TinyIR(), {"stages": 5}),
        (TinyIR(), {"embedding": 0}),
        (TinyIR(), {"tail": "flat"}),
        (IResNet18(), {"embedding": -1}),
    ],
)
def test_bad_settings_are_refused_by_name(model: TinyIR | IResNet18, change: dict[str, object]) -> None:
    with pytest.raises(checks.UserError, match=next(iter(change))):
        dataclasses.replace(model, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "size"), [("tiny_ir", (20, 32)), ("tiny_ir", (8, 8)), ("iresnet18", (20, 32))])
def test_bad_sizes_are_refused(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(checks.UserError, match="size="):
        build(name, size=size)


def test_building_and_training_import_no_compiler() -> None:
    # The start-up anchor: torch._dynamo costs 0.75 s and SymPy 0.4 s.
    program = (
        "import sys, torch\n"
        "from fedveil.federation import training\n"
        "from fedveil.models.backbones.tiny_ir import TinyIR\n"
        "from fedveil.models.heads.arcface import ArcFace\n"
        "generator = torch.Generator().manual_seed(1)\n"
        "network = TinyIR(width=8).build(3, (16, 16), generator)\n"
        "batch = (torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]))\n"
        "training.local_sgd(network, training.head_init(2, 64, generator), ArcFace(), [batch], lr=0.1, momentum=0.9)\n"
        "print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("count", [1, 4, 7])
def test_embed_equals_one_big_batch(count: int) -> None:
    network = build("tiny_ir")
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    out = embed(network, images, batch=3)
    torch.testing.assert_close(out, network(images).detach(), atol=2e-5, rtol=1e-4)
    assert not out.is_inference()
    assert not out.requires_grad


@pytest.mark.parametrize("trained", [("units.0.norm1.weight",), ("norm.bias", "embed.weight"), ("units.1.norm2.bias",)])
def test_norms_behind_what_does_not_train_have_torchs_gradients(trained: tuple[str, ...]) -> None:
    """PyTorch's own backward ends the process there, so the oracle is the network in float64, channels first."""
    network = TinyIR(width=8, embedding=8).build(3, (16, 16), torch.Generator().manual_seed(1))
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    named = dict(network.named_parameters())
    with _norm.written_out(True):
        found = torch.autograd.grad(network(x).square().sum(), [named[name] for name in trained])
        whole = torch.autograd.grad(network(x).square().sum(), list(named.values()))
    exact = network.double()
    named = dict(exact.named_parameters())
    right = torch.autograd.grad(exact(x.double()).square().sum(), list(named.values()))
    for one, other in zip(whole, right, strict=True):
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    for name, one in zip(trained, found, strict=True):
        assert torch.equal(one, whole[list(named).index(name)])


def test_a_norm_alone_can_be_trained() -> None:
    network = TinyIR(width=8, embedding=8).build(3, (16, 16), torch.Generator().manual_seed(1))
    x, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])
    loss = training.local_sgd(network, torch.randn(2, 8), CosFace(), [(x, labels)], 0.1, trainable=["norm.weight"])
    assert math.isfinite(loss)
