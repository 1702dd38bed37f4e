"""The choice of an engine: by shapes alone, and always one that computes the same."""

from __future__ import annotations

import pytest
import torch
from small_networks import LOSS, apart, backbone, batch, classifier_of
from torch import nn

from fedveil.private_training import _sizes, base, book_keeping, choice, loop


def network_and_tensors() -> tuple[nn.Module, list[nn.Parameter]]:
    network = classifier_of(backbone("tiny_ir"), 16)
    return network, list(network.parameters())


def test_less_memory_means_fewer_rows_and_then_the_loop() -> None:
    network, tensors = network_and_tensors()
    there = batch(list(range(32)), 16)
    sizes = _sizes.measured(network, there.inputs, tensors)
    memories = (2**40, sizes.book_keeping(8, 32), sizes.book_keeping(4, 32), 1)
    found = [choice.choose(network, there, tensors, memory) for memory in memories]
    rows = [one.engine.rows for one in found if isinstance(one.engine, book_keeping.BookKeeping)]
    assert rows[0] == min(32, book_keeping.default_rows(network, there, tensors))
    assert rows[1:] == [8, 4]
    assert found[-1].name == "loop"
    assert all(one.needs <= memory for one, memory in zip(found[:3], memories, strict=False))
    assert "fastest that fits" in found[0].words
    assert "book-keeping would need" in found[-1].words


def test_a_module_without_a_rule_is_named_in_the_words() -> None:
    network = nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 5))
    there = batch([0, 1, 1], 8)
    chosen = choice.choose(network, there, list(network.parameters()))
    assert chosen.name == "loop"
    assert "1 (LayerNorm)" in chosen.words
    found = choice.engine("auto")(network, LOSS, there, list(network.parameters()), base.Clip(1.0))
    expected = loop.Loop()(network, LOSS, there, list(network.parameters()), base.Clip(1.0))
    assert apart(found, expected) == (0.0, 0.0)


def test_a_choice_reads_no_image() -> None:
    network, tensors = network_and_tensors()
    one, other = batch([0, 1, 1], 16), batch([0, 1, 1], 16, seed=9)
    other.inputs.fill_(float("nan"))
    assert choice.choose(network, one, tensors, 2**30) == choice.choose(network, other, tensors, 2**30)


def test_sizes_are_what_autograd_saves() -> None:
    """The pass over shapes says what a real forward pass of one row keeps."""
    network, tensors = network_and_tensors()
    there = batch([0], 16)
    sizes = _sizes.measured(network, there.inputs, tensors)
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (1,):
            saved[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(there.inputs)
    assert sizes.saved == pytest.approx(sum(saved.values()), rel=0.05)
    assert sizes.trained == 4 * sum(tensor.numel() for tensor in tensors)
    frozen = _sizes.measured(network, there.inputs, tensors[-1:])
    assert frozen.saved < sizes.saved / 10
    assert sizes.loop(1) < sizes.book_keeping(4, 32) < sizes.plain(32) < sizes.hooks(32)


def test_an_empty_batch_first_does_not_mislead() -> None:
    network, tensors = network_and_tensors()
    empty = batch([], 16, 2)
    there = batch([0], 16)
    assert _sizes.measured(network, empty.inputs, tensors).saved > 0
    assert choice.choose(network, empty, tensors, 2**30).name == "book_keeping"
    assert _sizes.measured(network, there.inputs, tensors) == _sizes.measured(network, empty.inputs, tensors)


def test_estimates_name_every_engine() -> None:
    network, tensors = network_and_tensors()
    there = batch(list(range(8)), 16)
    found = {name: choice.needs(name, network, there, tensors) for name in choice.names()}
    assert found["loop"] < found["book_keeping"] < found["opacus_hooks"]
    assert found["auto"] == found["book_keeping"]
    assert found["low_memory"] <= found["book_keeping"]
