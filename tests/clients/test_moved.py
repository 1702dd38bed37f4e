"""What a round moved: the bits of subtract, check and load, whatever order and memory the values have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedveil.federation.tensors import get_tensors
from fedveil_clients import moved


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 3))


def closed(module: nn.Module) -> dict[str, np.ndarray]:
    tensors = get_tensors(module)
    for values in tensors.values():
        values.flags.writeable = False
    return tensors


def nowhere(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def trained(module: nn.Module) -> dict[str, np.ndarray]:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    return get_tensors(module)


def visit(module: nn.Module, tensors: dict[str, np.ndarray], names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Begin, train and take; return what moved, checked against a subtraction."""
    own = dict(module.named_parameters())
    moved.begin(module, own, tensors)
    before = get_tensors(module)
    assert all(np.array_equal(before[name], tensors[name]) for name in tensors)
    after = trained(module)
    update = moved.taken(module, own, names or tuple(tensors), tensors, nowhere)
    assert update is not None
    assert all(np.array_equal(update[name], after[name] - tensors[name]) for name in update)
    return update


def test_every_client_of_a_round_begins_at_its_tensors() -> None:
    module, first, second = network(), closed(network()), closed(network())
    for tensors in (first, first, second, first, second):
        assert set(visit(module, tensors)) == set(tensors)


def test_a_client_that_fails_leaves_nothing_to_the_next() -> None:
    module, tensors = network(), closed(network())
    visit(module, tensors)
    moved.begin(module, dict(module.named_parameters()), tensors)
    trained(module)  # and then an error: nothing is taken
    visit(module, tensors)


def test_whoever_trains_it_without_asking_is_noticed() -> None:
    module, tensors = network(), closed(network())
    visit(module, tensors)
    trained(module)
    visit(module, tensors)


def test_tensors_that_may_change_are_loaded_every_time() -> None:
    module, tensors = network(), get_tensors(network())
    visit(module, tensors)
    tensors["0.weight"] += 1
    visit(module, tensors)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 0), (399, 299)])
def test_a_difference_that_is_not_finite_is_none(value: float, place: tuple[int, int]) -> None:
    module, tensors = network(), closed(network())
    own = dict(module.named_parameters())
    moved.begin(module, own, tensors)
    with torch.no_grad():
        own["0.weight"][place] = value
    assert moved.taken(module, own, tuple(tensors), tensors, nowhere) is None
    visit(module, tensors)


def test_values_in_another_order_of_memory() -> None:
    module = network()
    module[0].weight = nn.Parameter(torch.randn(300, 400).T)
    tensors = closed(network())
    columns = {name: np.asfortranarray(values) for name, values in tensors.items()}
    for values in columns.values():
        values.flags.writeable = False
    for given in (tensors, tensors, columns, columns):
        visit(module, given)
