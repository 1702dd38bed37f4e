"""Small random networks and batches that the tests of engines share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fedveil.configuration import plugins
from fedveil.models.backbones import _ir
from fedveil.models.heads.cosface import CosFace
from fedveil.private_training import base, classifier

LOSS = classifier.row_losses(CosFace(scale=8.0, margin=0.2))
CLASSES = 5

BACKBONES = {
    "tiny_ir": ({"width": 8, "embedding": 12}, 16),
    "mobilefacenet": ({"width": 0.25, "embedding": 12}, 16),
    "iresnet18": ({"embedding": 8}, 16),
}


def backbone(name: str) -> nn.Module:
    settings, size = BACKBONES[name]
    return plugins.build("model", name, settings).build(3, (size, size), torch.Generator().manual_seed(1))  # type: ignore[no-any-return]


def random_backbone(seed: int) -> nn.Module:
    """Return layers of random kinds and shapes for (B, 3, 8, 8), with a large and a small product at any rate."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*choices: int) -> int:
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    channels = 3
    layers: list[nn.Module] = []
    for _ in range(3):
        groups = pick(1, 1, channels)
        out = channels * pick(1, 2) if groups > 1 else pick(4, 8)
        side = pick(1, 3)
        layers.append(
            nn.Conv2d(channels, out, side, pick(1, 2), pick(0, side // 2), groups=groups, bias=bool(pick(0, 1)))
        )
        channels = out
        norm = pick(0, 1, 2)
        layers += [[nn.GroupNorm(1, channels)], [_ir.Affine(channels)], []][norm]
        layers.append([nn.PReLU(channels), nn.PReLU(), nn.ReLU()][pick(0, 1, 2)])
    layers += [nn.AdaptiveAvgPool2d(2), nn.Conv2d(channels, 16, 2, bias=True), nn.Flatten(), nn.Linear(16, 6)]
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return network


def classifier_of(found: nn.Module, size: int, dtype: torch.dtype = torch.float32) -> classifier.Classifier:
    with torch.no_grad():
        dimension = found(torch.zeros(1, 3, size, size)).shape[1]
    rows = torch.randn(CLASSES, dimension, generator=torch.Generator().manual_seed(2))
    return classifier.Classifier(found, rows).to(dtype)


def batch(
    units: Sequence[int], size: int, count: int | None = None, dtype: torch.dtype = torch.float32, seed: int = 3
) -> base.Batch:
    """Return random images whose weights average the rows of a unit."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.tensor(units, dtype=torch.int64)
    inputs = torch.randn(len(units), 3, size, size, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(CLASSES, (len(units),), generator=generator)
    number = max(units, default=-1) + 1 if count is None else count
    weight = 1.0 / torch.bincount(unit, minlength=number)[unit]
    return base.Batch(inputs, labels, unit, weight.to(dtype), number)


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors])


def apart(found: base.ClippedSum, expected: base.ClippedSum) -> tuple[float, float]:
    """Return the largest relative differences of norms and of the whole sum."""
    scale = expected.norms.double().clamp(min=1e-12)
    norms = ((found.norms.double() - expected.norms.double()).abs() / scale).max()
    sums = (flat(found.tensors) - flat(expected.tensors)).norm() / flat(expected.tensors).norm()
    return float(norms), float(sums)
