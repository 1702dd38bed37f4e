"""Recorded steps: places that stay, shapes that do not fit, networks that must not be recorded; without a GPU.

A recording that computes nothing, and a replay that runs the step again, stand in for CUDA's: what is tested is the
logic around them. `tests/device/test_gpu.py` compares real graphs with steps launched one by one, bit for bit.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fedveil.federation import graphs, training
from fedveil.models.heads.arcface import ArcFace

HEAD = ArcFace(scale=8.0, margin=0.2)


class Again:
    """A stand-in for a CUDA graph: `replay` does the work on the same places."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work, self.replays = work, 0

    def replay(self) -> None:
        self.replays += 1
        self.work()

    def pool(self) -> str:
        return "shared"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Again]]:
    """Record on the processor; return the recordings made, in order."""
    found: list[Again] = []

    def record(device: torch.device, work: Callable[[], None], pool: Any = None) -> Again:
        assert pool == ("shared" if found else None)
        found.append(Again(work))
        return found[-1]

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "aside", lambda device, work: work())
    monkeypatch.setattr(graphs, "_capable", lambda network, centres: not hasattr(network, "with_penalty"))
    graphs.forget()
    yield found
    graphs.forget()


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.PReLU(8), nn.Linear(8, 4))


def batches(count: int, size: int = 6, classes: int = 3, seed: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 2, 2, generator=generator), torch.randint(classes, (size,), generator=generator))
        for _ in range(count)
    ]


def trained(net: nn.Module, data: Any, classes: int = 3, **more: Any) -> tuple[float, list[torch.Tensor]]:
    """Return the mean loss, and the centres and parameters after the steps."""
    centres = torch.randn(classes, 4, generator=torch.Generator().manual_seed(2))
    loss = training.local_sgd(net, centres, HEAD, data, more.pop("lr", 0.1), **more)
    return loss, [centres, *(parameter.detach().clone() for parameter in net.parameters())]


def launched(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **more: Any) -> tuple[float, list[torch.Tensor]]:
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "USED", False)
        return trained(*arguments, **more)


def near(one: tuple[float, list[torch.Tensor]], other: tuple[float, list[torch.Tensor]]) -> bool:
    """Return whether two trainings agree up to rounding: here, not on a GPU, a launched step rounds once less."""
    same = all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(one[1], other[1], strict=True))
    return same and abs(one[0] - other[0]) < 1e-5


@pytest.mark.parametrize(
    "more", [{}, {"weight_decay": 0.1}, {"centre_lr": 0.3}, {"device_batch": 4}, {"trainable": ["3.weight"]}]
)
def test_recorded_steps_are_the_launched_ones(
    made: list[Again], monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    found = trained(network(), batches(8), **more)
    assert [one.replays for one in made] == [8 - graphs.WARM]
    assert near(found, launched(monkeypatch, network(), batches(8), **more))


def test_rounds_share_a_recording_with_other_rates_centres_and_parameters(
    made: list[Again], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()
    trained(net, batches(5))
    net.load_state_dict(network(9).state_dict())  # in place, as a round's global tensors are set
    found = trained(net, batches(4, seed=7), lr=0.02)
    assert [one.replays for one in made] == [5 - graphs.WARM + 4]
    assert near(found, launched(monkeypatch, network(9), batches(4, seed=7), lr=0.02))


def test_a_batch_of_another_shape_is_launched(made: list[Again], monkeypatch: pytest.MonkeyPatch) -> None:
    data = [*batches(5), *batches(1, size=2), *batches(2)]
    found = trained(network(), data)
    assert [one.replays for one in made] == [4]
    assert near(found, launched(monkeypatch, network(), data))


def test_the_first_shape_may_be_the_odd_one(made: list[Again], monkeypatch: pytest.MonkeyPatch) -> None:
    data = [*batches(1, size=2), *batches(graphs.WARM + 2)]
    found = trained(network(), data)
    assert [one.replays for one in made] == [2]
    assert near(found, launched(monkeypatch, network(), data))


def test_clients_with_other_numbers_of_classes_share_inputs_and_memory(made: list[Again]) -> None:
    net = network()
    for classes in (3, 5, 3):
        trained(net, batches(5, classes=3), classes=classes)
    assert len(made) == 2  # the third client has the first one's number
    first, second = graphs._recordings
    assert first.inputs is second.inputs


def test_moved_parameters_and_other_settings_are_recorded_anew(made: list[Again]) -> None:
    net = network()
    trained(net, batches(5))
    trained(net, batches(5), weight_decay=0.1)
    net[1].weight = nn.Parameter(net[1].weight.detach().clone())
    trained(net, batches(5), weight_decay=0.1)
    assert len(made) == 3


def test_what_a_graph_cannot_hold_is_launched(made: list[Again]) -> None:
    class Joint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def with_penalty(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.inner(x), torch.zeros(())

    trained(Joint(), batches(6))
    trained(network(), batches(6), momentum=0.9)
    trained(network(), batches(6), restrict=torch.ones(3, 3, dtype=torch.bool))
    trained(network(), batches(6), extra_negatives=torch.ones(1, 4))
    trained(network(), batches(6), pull=lambda tensors, gradients: gradients)
    trained(network(), batches(6), competing=lambda number, labels: torch.arange(3))
    assert not made


def test_a_step_that_cannot_be_recorded_is_launched_with_a_word(
    made: list[Again], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(device: torch.device, work: Callable[[], None], pool: Any = None) -> Again:
        raise torch.OutOfMemoryError("no room\nin detail")

    monkeypatch.setattr(graphs, "record", full)
    with pytest.warns(UserWarning, match=r"no CUDA graph of them \(no room\)"):
        found = trained(network(), batches(6))
    assert near(found, launched(monkeypatch, network(), batches(6)))


def test_graphs_make_room_for_a_step(made: list[Again]) -> None:
    trained(network(), batches(5))
    asked = []

    def work() -> int:
        asked.append(len(graphs._recordings))
        if graphs._recordings:
            raise torch.OutOfMemoryError("no room beside the graph")
        return 7

    assert graphs.with_room(work) == 7
    assert asked == [1, 0]
    with pytest.raises(torch.OutOfMemoryError):
        graphs.with_room(lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("no room at all")))


def test_few_are_kept_and_none_of_a_network_that_is_gone(made: list[Again]) -> None:
    nets = [network() for _ in range(graphs._KEPT + 2)]
    for net in nets:
        trained(net, batches(5))
    assert len(graphs._recordings) == graphs._KEPT
    gone = weakref.ref(nets.pop())
    made.clear()  # the stand-in holds the step, a graph does not
    del net
    graphs.forget()
    trained(nets[0], batches(1))
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("dimensions", [2, 4], ids=["centres", "images"])
def test_no_room_for_a_second_copy_means_launched_steps(
    made: list[Again], monkeypatch: pytest.MonkeyPatch, dimensions: int
) -> None:
    def full(like: torch.Tensor) -> torch.Tensor:
        if like.ndim == dimensions:
            raise torch.OutOfMemoryError("no room")
        return torch.zeros_like(like)

    expected = launched(monkeypatch, network(), batches(6))
    monkeypatch.setattr(torch, "empty_like", full)
    assert near(trained(network(), batches(6)), expected)
    assert not made
