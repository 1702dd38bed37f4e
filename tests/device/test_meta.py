"""Every protection, network, head and phase takes a step on torch's meta device, where no tensor may be elsewhere.

The meta device has shapes and no values. An operation that mixes it with the processor is what would fail, or wait for
a copy, on a GPU; torch itself lets some of them pass, so every operation is looked at.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedveil import randomness
from fedveil.configuration import plugins
from fedveil.device import Place
from fedveil.federation import training
from fedveil.models.backbones import _ir
from fedveil.models.embedding import embed
from fedveil.protections.base import Visit

SIZE = (32, 32)
META = Place(torch.device("meta"))
MODELS = {
    "tiny_ir": {"width": 8, "embedding": 16},
    "mobilefacenet": {"width": 0.25, "embedding": 16},
    "iresnet18": {"embedding": 16},
    "iresnet50": {"embedding": 16},
    "iresnet100": {"embedding": 16},
}
_COPIES = ("aten::_to_copy", "aten::copy_")
_BY_NUMBERS = ("aten::index", "aten::index_put_", "aten::_index_put_impl_")  # take places from the host anywhere


class OneDevice(TorchDispatchMode):
    """Refuses an operation between a device and the host; numbers (tensors without dimensions) may come from either."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        if name in _BY_NUMBERS:
            tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
        if name not in _COPIES and len({tensor.device.type for tensor in tensors}) > 1:
            raise AssertionError(f"{name} between {[(tensor.device.type, tuple(tensor.shape)) for tensor in tensors]}")
        return func(*args, **(kwargs or {}))


def visit(count: int, prepared: torch.Tensor | None = None) -> Visit:
    streams = [randomness.SecretStream(randomness.test_key(1, "meta", place)) for place in range(count)]
    return Visit(streams, [bytes([place]) for place in range(count)], prepared)


def images(count: int = 4) -> torch.Tensor:
    return torch.zeros(count, 3, *SIZE, dtype=torch.uint8, device="meta")


def step(network: torch.nn.Module, features: torch.Tensor, head: Any, precision: Any = "fp32") -> None:
    labels = torch.zeros(len(features), dtype=torch.int64, device="meta")
    centres = torch.ones(3, network(features[:1]).shape[1], device="meta")
    training.local_sgd(
        network, centres, head, [(features, labels)], 0.1, 0.9, 0.1, precision=precision, device_batch=2
    )


def test_the_list_of_networks_is_whole() -> None:
    assert sorted(MODELS) == plugins.names("model")


def test_the_guard_sees_what_torch_lets_pass() -> None:
    with pytest.raises(AssertionError, match="convolution"), OneDevice():
        torch.nn.functional.conv2d(torch.empty(1, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3))


def test_a_step_of_the_smallest_network_and_every_head(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a_step_of("tiny_ir", fitted[1], monkeypatch)


@pytest.mark.parametrize("protection", ["none", "duetface"])  # duetface puts more around a network, the others do not
@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
def test_a_step_of_a_network_of_each_kind(name: str, protection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a_step_of(name, plugins.build("protection", protection, {}), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"tiny_ir"}))
def test_a_step_of_every_network_and_head(fitted: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a_step_of(name, fitted[1], monkeypatch)


def a_step_of(name: str, protection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ir, "initialised", lambda network, generator: None)  # values nobody reads take seconds
    model = plugins.build("model", name, MODELS[name])
    network = META.module(protection.network(model, SIZE, torch.Generator().manual_seed(1)))
    features = torch.empty(2, *protection.layout(SIZE), device="meta")
    for head in plugins.names("head"):
        with OneDevice():
            step(network, features, plugins.build("head", head, {}))


def test_release_features_and_training(fitted: Any) -> None:
    _, protection, state = fitted
    model = plugins.build("model", "tiny_ir", MODELS["tiny_ir"])
    network = META.module(protection.network(model, SIZE, torch.Generator().manual_seed(1)))
    placed = META.state(state)
    with OneDevice():
        for released in (
            protection.release(images(), placed, visit(4).streams),
            protection.clean(images(), placed),
        ):
            assert released.is_meta
            assert released.shape == (4, *protection.representation(SIZE))
            fed = protection.features(released, placed)
            assert embed(network, fed, 3).is_meta
        prepared = protection.prepared(images(), placed)
        for rows in (None, prepared):
            fed = protection.training_features(images(), placed, visit(4, rows))
            assert fed.is_meta
            assert fed.shape == (4, *protection.layout(SIZE))
        step(network, fed, plugins.build("head", "cosface", {}))


def test_every_phase(fitted: Any) -> None:
    _, protection, state = fitted
    for phase in protection.phases:
        model = plugins.build("model", "tiny_ir", MODELS["tiny_ir"])
        built = phase.network(model, SIZE, state, torch.Generator().manual_seed(1))
        network, placed = META.module(built), META.state(state)
        with OneDevice():
            fed = phase.features(images(), placed, visit(4))
            assert fed.is_meta
            step(network, fed, plugins.build("head", "arcface", {}))
        step(network, fed, plugins.build("head", "arcface", {}), "bf16")


def test_what_a_network_computes_in_bfloat16(fitted: Any) -> None:
    _, protection, _ = fitted
    model = plugins.build("model", "tiny_ir", MODELS["tiny_ir"])
    network = META.module(protection.network(model, SIZE, torch.Generator().manual_seed(1)))
    step(network, torch.empty(4, *protection.layout(SIZE), device="meta"), plugins.build("head", "cosface", {}), "bf16")
