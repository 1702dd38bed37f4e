"""Files that a backbone starts from: public BatchNorm networks exactly, others refused by tensor and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedveil import checks, cli, config, runs
from fedveil.configuration import plugins
from fedveil.federation import starting, warm_start
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil.models import published
from fedveil.storage import safetensors

UNITS = (2, 2, 2, 2)
SIDE, EMBEDDING = 32, 16


class Block(nn.Module):
    """The residual block of the public networks, written from their tensors' names and published structure."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.prelu = nn.PReLU(out)
        self.conv2 = nn.Conv2d(out, out, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != out:
            self.downsample = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return torch.add(inner, x if self.downsample is None else self.downsample(x))


class Reference(nn.Module):
    """IResNet-18 with BatchNorm and the public names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        inside = 64
        for number, (out, count) in enumerate(zip((64, 128, 256, 512), UNITS, strict=True), 1):
            blocks = [Block(inside if unit == 0 else out, out, 1 if unit else 2) for unit in range(count)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inside = out
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * (SIDE // 16) ** 2, EMBEDDING)
        self.features = nn.BatchNorm1d(EMBEDDING)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        found: torch.Tensor = self.features(self.fc(self.bn2(x).flatten(1)))
        return found


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Return a network whose every value, its statistics too, is drawn."""
    generator = torch.Generator().manual_seed(3)
    network = Reference()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif name.endswith("running_mean") or (value.ndim == 1 and name.endswith("bias")):
                value.normal_(0.0, 0.2, generator=generator)
            elif value.ndim == 1:
                value.uniform_(0.3, 0.9, generator=generator)
            elif value.ndim > 1:
                value.normal_(0.0, (2.0 / value[0].numel()) ** 0.5, generator=generator)
    return network.eval()


def backbone(norm: str = "affine", name: str = "iresnet18") -> nn.Module:
    model = plugins.build("model", name, {"embedding": EMBEDDING, "norm": norm})
    built: nn.Module = model.build(3, (SIDE, SIDE), torch.Generator().manual_seed(1))
    return built


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        path.write_bytes(safetensors.pack({k: v.numpy() for k, v in tensors.items()}, {}))
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_public_checkpoint_computes_what_it_did(
    reference: Reference, suffix: str, prefix: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / f"r18{suffix}", {prefix + k: v for k, v in reference.state_dict().items()})
    ours = backbone()
    set_tensors(ours, starting.fitted(path, ours, "iresnet18"))
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)) * 2 - 1
    with torch.no_grad():
        expected, found = reference(images), ours(images)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def test_frozen_statistics_mix_no_images_and_every_tensor_learns(reference: Reference, tmp_path: Path) -> None:
    ours = backbone()
    set_tensors(ours, starting.fitted(saved(tmp_path / "r18.pth", reference.state_dict()), ours, "iresnet18"))
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours(images)[:1], ours(images[:1]), rtol=1e-4, atol=1e-5)
    assert not list(ours.buffers())
    ours(images).square().sum().backward()
    assert all(value.grad is not None and float(value.grad.abs().sum()) > 0 for value in ours.parameters())


def test_a_network_of_group_norm_cannot_be_it(reference: Reference, tmp_path: Path) -> None:
    path = saved(tmp_path / "r18.pth", reference.state_dict())
    with pytest.raises(checks.UserError, match=r"r18\.pth holds running statistics.*model\.norm=affine"):
        starting.fitted(path, backbone("group"), "iresnet18")


def changed(reference: Reference, **more: torch.Tensor | None) -> dict[str, torch.Tensor]:
    named = {**reference.state_dict(), **{name.replace("__", "."): value for name, value in more.items()}}
    return {name: value for name, value in named.items() if value is not None}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"fc__weight": torch.zeros(EMBEDDING, 9)}, r"tensor embed\.weight has shape \(16, 9\), not \(16, 2048\)"),
        ({"fc__bias": None}, r"no tensor embed\.bias \(16,\)"),
        ({"layer3__1__conv1__weight": None}, r"no tensor units\.5\.conv1\.weight"),
        ({"layer3__2__conv1__weight": torch.zeros(1)}, r"has no tensor layer3\.2\.conv1\.weight"),
        ({"bn2__running_var": torch.full((512,), -1.0)}, r"tensor norm_map\.weight is not finite"),
    ],
)  # fmt: skip
def test_another_network_is_named_with_its_first_tensor(
    reference: Reference, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "r18.pth", changed(reference, **more))
    with pytest.raises(checks.UserError, match=rf"r18\.pth does not fit model=iresnet18.*{said}.*Choose the model"):
        starting.fitted(path, backbone(), "iresnet18")


def test_a_deeper_networks_checkpoint_is_refused(reference: Reference, tmp_path: Path) -> None:
    with pytest.raises(
        checks.UserError, match=r"does not fit model=iresnet50: it has no tensor units\.2\.norm0\.weight"
    ):
        starting.fitted(saved(tmp_path / "a.pth", reference.state_dict()), backbone(name="iresnet50"), "iresnet50")


@pytest.mark.parametrize("inside", ["state_dict", "backbone"])
def test_tensors_may_lie_in_a_training_scripts_checkpoint(reference: Reference, inside: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, inside: reference.state_dict()}, tmp_path / "a.pt")
    assert published.has_statistics(starting.read(tmp_path / "a.pt"))


class Harmful:
    """A pickle that would do something if it were run."""

    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize("what", [Harmful(), [1, 2], {"a": 3}])
def test_a_pickle_that_is_no_table_of_tensors_is_refused_and_not_run(
    what: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(what, tmp_path / "a.pth")
    with pytest.raises(checks.UserError, match=r"a\.pth is (no table of tensors|not a readable file)"):
        starting.read(tmp_path / "a.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("data", [b"", b"nothing"])
def test_damaged_files_are_named(suffix: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(checks.UserError, match=rf"a{suffix} is not a readable"):
        starting.read(tmp_path / f"a{suffix}")


def test_our_own_files_come_back(tmp_path: Path) -> None:
    network = plugins.build("model", "tiny_ir", {"width": 8}).build(3, (32, 32), torch.Generator().manual_seed(1))
    own = get_tensors(network)
    (tmp_path / "a.npz").write_bytes(runs.pack({f"tensor/{k}": v for k, v in own.items()}, {}))
    beside = {f"backbone.{k}": v for k, v in own.items()} | {"protection.scale": np.ones(3, np.float32)}
    (tmp_path / "a.safetensors").write_bytes(safetensors.pack(beside, {"model_sha256": "0"}))
    for name in ("a.npz", "a.safetensors"):
        found = starting.fitted(tmp_path / name, network, "tiny_ir")
        assert all(np.array_equal(found[key], value) for key, value in own.items())


@pytest.mark.parametrize("start", ["train.warm_start=public", "train.warm_start=null"])
def test_a_network_without_norms_does_not_start_from_random_values(start: str) -> None:
    settings = config.load(["model=iresnet18", "model.norm=affine", start])
    with pytest.raises(checks.UserError, match=r"model\.norm=affine normalises nothing.*train\.warm_start=FILE"):
        warm_start.checkpoint(settings)
    assert warm_start.checkpoint(config.load(["model=iresnet18", start])) is None


def test_a_file_of_another_network_is_refused_before_a_run_has_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = {"stem.weight": np.zeros((8, 3, 3, 3), np.float32)}
    Path("a.safetensors").write_bytes(safetensors.pack(own, {}))
    words = ["study=quick", "tracking=none", "protection=none", "train.warm_start=a.safetensors"]
    assert cli.main(["simulate", *words, "--plain"]) == 2
    assert "a.safetensors does not fit model=tiny_ir: its tensor stem.weight" in " ".join(
        capsys.readouterr().err.split()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
