"""Words that name devices, batches made ahead, parts of a batch, and what is told when memory ends."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedveil import checks, config, device, frequency
from fedveil.configuration import plugins
from fedveil.device import Place, Placed
from fedveil.federation import instruction, training
from fedveil.federation.federation import Federation
from fedveil.loader import ahead

HEAD = plugins.build("head", "cosface", {})
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")


# --- words -----------------------------------------------------------------------------------------------------------


@NO_GPU
@pytest.mark.parametrize("word", ["cuda", "cuda:0", "cuda:1"])
def test_an_absent_gpu_is_named_with_what_there_is(word: str) -> None:
    with pytest.raises(checks.UserError, match=rf"no device='{word}' here; there are \['cpu'.*device=auto"):
        device.place(word)


@pytest.mark.parametrize(("word", "nearest"), [("cpi", "cpu"), ("cud", "cuda"), ("gpu", "cpu"), ("autom", "auto")])
def test_a_mistyped_device_is_refused_with_the_nearest(word: str, nearest: str) -> None:
    with pytest.raises(checks.UserError, match=rf"no device='{word}'.*Did you mean '{nearest}'"):
        device.place(word)


@NO_GPU
def test_without_a_gpu_auto_is_the_processor() -> None:
    assert device.place("auto") == device.HOST == Place(torch.device("cpu"))


def test_bfloat16_is_refused_where_a_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_has_bfloat16", lambda found: False)
    with pytest.raises(checks.UserError, match=r"precision=bf16 needs a device.*cpu does not"):
        device.place("cpu", "bf16")


def test_an_absent_device_is_refused_before_anything_is_written(tmp_path: Any) -> None:
    federation = Federation.of(["study=quick", "tracking=none", f"runs.root={tmp_path / 'runs'}", "device=tpu"])
    with pytest.raises(checks.UserError, match="no device='tpu'"):
        federation.check()
    assert not (tmp_path / "runs").exists()


def test_where_it_runs_is_no_part_of_the_hash_and_precision_is() -> None:
    plain = config.digest(config.load([]))
    assert plain == config.digest(config.load(["device=cpu", "device_batch=7"]))
    assert plain != config.digest(config.load(["precision=bf16"]))


def test_a_coordinators_device_is_not_an_owners() -> None:
    arrived = instruction.from_wire(instruction.to_wire(config.load(["device=cuda:3", "device_batch=2"])))
    assert (arrived.settings.device, arrived.settings.device_batch) == ("auto", None)


# --- batches made ahead ----------------------------------------------------------------------------------------------


def numbers(count: int) -> Iterator[tuple[torch.Tensor, ...]]:
    for number in range(count):
        yield (torch.tensor(number),)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_batches_come_whole_and_in_order(count: int) -> None:
    assert [int(batch[0]) for batch in ahead(numbers(count), None)] == list(range(count))


def test_an_error_comes_at_its_place() -> None:
    def failing() -> Iterator[tuple[torch.Tensor, ...]]:
        yield from numbers(2)
        raise OSError("the disk is gone")

    batches = ahead(failing(), None)
    assert [int(next(batches)[0]), int(next(batches)[0])] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_whoever_stops_listening_leaves_no_thread() -> None:
    made = []

    def endless() -> Iterator[tuple[torch.Tensor, ...]]:
        for number in itertools.count():
            made.append(number)
            yield (torch.tensor(number),)

    before = threading.active_count()
    batches = ahead(endless(), None, depth=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert len(made) <= 5


def test_batches_are_made_before_they_are_asked_for() -> None:
    third = threading.Event()

    def telling() -> Iterator[tuple[torch.Tensor, ...]]:
        for number, batch in enumerate(numbers(3)):
            yield batch
            if number == 1:
                third.set()

    batches = ahead(telling(), None, depth=3)
    next(batches)
    assert third.wait(30)


# --- parts of a batch ------------------------------------------------------------------------------------------------


class Penalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.map(x.flatten(1))

    def with_penalty(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self(x)
        return found, found.abs().mean()


@pytest.mark.parametrize("part", [1, 3, 4, 7, 100])
def test_steps_in_parts_are_the_steps_of_a_whole_batch(part: int) -> None:
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(7, 1, 2, 3, generator=generator), torch.randint(3, (7,), generator=generator)) for _ in range(3)
    ]
    found = []
    for largest in (None, part):
        torch.manual_seed(5)
        network, centres = Penalised(), torch.eye(3, 4)
        loss = training.local_sgd(network, centres, HEAD, batches, 0.1, 0.9, 0.01, device_batch=largest)
        found.append([torch.tensor(loss), centres.detach(), *(p.detach() for p in network.parameters())])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts)


def test_bfloat16_trains_float32_parameters_nearly_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    batch = (torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 3)
    found = {}
    for precision in ("fp32", "bf16"):
        model = plugins.build("model", "tiny_ir", {"width": 16, "embedding": 32})
        network = model.build(3, (16, 16), torch.Generator().manual_seed(1))
        before = [p.detach().clone() for p in network.parameters()]
        centres = training.head_init(3, 32, torch.Generator().manual_seed(2))
        training.local_sgd(network, centres, HEAD, [batch] * 3, 0.1, precision=precision)
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert centres.dtype == torch.float32
        moved = [(p.detach() - b).flatten() for p, b in zip(network.parameters(), before, strict=True)]
        found[precision] = torch.cat(moved)
    cosine = torch.nn.functional.cosine_similarity(found["fp32"], found["bf16"], 0)
    assert 0.98 < float(cosine) < 1.0


def test_a_norm_keeps_bfloat16_and_changes_no_bit_of_float32() -> None:
    from fedveil.models.backbones import _ir

    x = torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(1))
    norm = _ir.group_norm(16)
    with torch.no_grad():
        assert torch.equal(norm(x), nn.functional.group_norm(x, 2, norm.weight, norm.bias, norm.eps))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert norm(x.bfloat16()).dtype == torch.bfloat16
            torch.testing.assert_close(norm(x.bfloat16()).float(), norm(x), atol=0.03, rtol=0.02)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "fits"), [(100, 32), (32, 32), (31, 16), (1, 1), (0, 0)])
def test_the_largest_that_fits_is_found_by_trying(room: int, fits: int) -> None:
    def trial(count: int) -> None:
        if count > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert device.largest(trial, 64) == fits


def test_the_message_says_what_to_type_or_that_nothing_fits() -> None:
    assert "--resume RUN_ID device_batch=16" in str(device.out_of_memory(device.HOST, 64, 16))
    assert "smaller model" in str(device.out_of_memory(device.HOST, 64, 0))


def test_a_client_whose_device_is_full_says_how_many_fit(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedveil.federation.tensors import get_tensors
    from fedveil_clients import sites
    from fedveil_clients import training as client
    from fedveil_clients.policy import Node

    run = Federation.of([
        "study=quick", "tracking=none", "protection=none", "data.identities=8", "data.images_per_identity=4",
        "data.pairs=8", "train.clients=2", "train.batch_size=12",
    ])  # fmt: skip
    node = Node("full", allow_test_seed=True, vault_root=str(tmp_path), simulated=True)
    site = sites.open_site(run, "run", "c0001", node, {})
    whole = type(site.backbone).forward

    def small(self: nn.Module, x: torch.Tensor, after: Any = None) -> torch.Tensor:
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, x, after)

    monkeypatch.setattr(type(site.backbone), "forward", small)
    tensors = get_tensors(run.backbone())
    with pytest.raises(checks.UserError, match=r"12 images in a step. 3 fit: .*device_batch=3"):
        client.train_round(site, 1, tensors)
    node = Node("full", allow_test_seed=True, vault_root=str(tmp_path), simulated=True, device_batch=3)
    site = sites.open_site(run, "run", "c0001", node, {})
    update = client.train_round(site, 1, tensors).tensors
    assert all(np.isfinite(value).all() for value in update.values())


def test_an_evaluation_takes_smaller_batches_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedveil.evaluation import protocol

    whole = protocol.embed
    asked = []

    def small(backbone: nn.Module, features: torch.Tensor, batch: int) -> torch.Tensor:
        asked.append(batch)
        if batch > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(backbone, features, batch)

    monkeypatch.setattr(protocol, "embed", small)
    features = torch.randn(40, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    network: Any = Penalised()
    embedder = protocol._Embedder(network, plugins.build("protection", "none", {}), {}, None, 1, 64)  # type: ignore[arg-type]
    room = 10
    torch.testing.assert_close(torch.from_numpy(embedder._embedded(features)), whole(network, features))
    assert asked == [64, 32, 16, 8]
    room = 0
    with pytest.raises(checks.UserError, match="Not one image fits"):
        embedder._embedded(features)


# --- states and transforms -------------------------------------------------------------------------------------------


def test_a_state_on_a_device_is_checked_on_the_host() -> None:
    state = {"scale": torch.ones(3)}
    assert device.HOST.state(state) is state
    placed = Place(torch.device("meta")).state(state)
    assert isinstance(placed, Placed)
    assert placed["scale"].is_meta
    assert device.on_host(placed) is state


def test_own_channels_of_every_image_are_the_transforms_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 24, 16), generator=generator, dtype=torch.uint8)
    chosen = [[9, 63, 2], [1, 8, 3], [40, 41, 42], [0, 7, 56]]
    one_by_one = torch.cat([frequency.upsampled_dct(images[i : i + 1], each) for i, each in enumerate(chosen)])
    assert torch.equal(frequency.upsampled_dct_each(images, chosen), one_by_one)
    with pytest.raises(checks.UserError, match="as many channels"):
        frequency.upsampled_dct_each(images, [[1, 2], [1], [2, 3], [4, 5]])
