"""On a GPU: near the processor, equal to itself, and a message where its memory ends. `make test-gpu` runs them.

Tolerances are those that docs/devices.md promises.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedveil import checks, device, randomness
from fedveil.configuration import plugins
from fedveil.data.sources.procedural import draw_faces
from fedveil.device import HOST, Place
from fedveil.federation import graphs, training
from fedveil.federation.tensors import get_tensors
from fedveil.models.backbones import _fused
from fedveil.models.embedding import embed
from fedveil.private_training import base as private
from fedveil.private_training import choice, classifier
from fedveil.protections.base import Visit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU of CUDA here"),
]
FACES = draw_faces(1, 50, identities=5, images_per_identity=4, size=32)
PIXELS, LABELS = FACES.images(np.arange(20)), np.asarray(FACES.labels)
HEAD = plugins.build("head", "arcface", {})
FEATURES, UPDATE, EMBEDDING = 2e-3, 2e-2, 1e-3  # relative, in the Euclidean norm


def there(precision: Any = "fp32", batch: int | None = None) -> Place:
    return device.place("cuda", precision, batch)


def features(place: Place, protection: Any, state: Any) -> torch.Tensor:
    streams = [randomness.SecretStream(randomness.test_key(1, "gpu", number)) for number in range(len(PIXELS))]
    visit = Visit(streams, [bytes([label]) for label in LABELS.tolist()])
    found: torch.Tensor = protection.training_features(place.put(PIXELS), place.state(state), visit)
    return place.fed(found).detach()


def network(place: Place, protection: Any, name: str = "tiny_ir") -> torch.nn.Module:
    known = {"width": 16, "embedding": 32} if name == "tiny_ir" else {"embedding": 32}
    built: torch.nn.Module = protection.network(
        plugins.build("model", name, known), (32, 32), torch.Generator().manual_seed(1)
    )
    return place.module(built)


def update(place: Place, protection: Any, batches: Any, name: str = "tiny_ir") -> np.ndarray:
    """Return the update of a few steps as one vector."""
    net = network(place, protection, name)
    before = get_tensors(net)
    centres = place.fed(training.head_init(5, 32, torch.Generator().manual_seed(2)))
    made = place.ahead(batch for batch in batches)
    training.local_sgd(net, centres, HEAD, made, 0.05, precision=place.precision, device_batch=place.batch)
    return np.concatenate([(value - before[key]).ravel() for key, value in get_tensors(net).items()])


def apart(one: Any, other: Any) -> float:
    return float(np.linalg.norm(np.asarray(one) - np.asarray(other)) / np.linalg.norm(np.asarray(one)))


def batches(place: Place, protection: Any, state: Any, steps: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(features(place, protection, state), place.fed(torch.from_numpy(LABELS)))] * steps


def test_features_and_updates_are_near_the_processors(fitted: Any) -> None:
    _, protection, state = fitted
    here, far = batches(HOST, protection, state), batches(there(), protection, state)
    assert far[0][0].is_cuda
    if by_signs(protection):
        spread = protection.strength * float(state["sigma"] / state["scale"])
        assert float((here[0][0] - far[0][0].cpu()).abs().max()) <= 2.001 * spread
        return
    assert apart(here[0][0], far[0][0].cpu()) < FEATURES
    assert apart(update(HOST, protection, here), update(there(), protection, far)) < UPDATE


def by_signs(protection: Any) -> bool:
    """Return whether features are found by steps of a gradient's sign, which rounding may turn."""
    return bool(getattr(protection, "fine_tune", False))


def test_releases_are_near_the_processors(fitted: Any) -> None:
    name, protection, state = fitted
    if name == "advface":
        pytest.skip("steps of a gradient's sign: rounding turns some, and the bound of each value is tested above")
    found = []
    for place in (HOST, there()):
        streams = [randomness.SecretStream(randomness.test_key(3, "gpu", number)) for number in range(len(PIXELS))]
        found.append(protection.release(place.put(PIXELS), place.state(state), streams).cpu())
    assert apart(found[0], found[1]) < FEATURES


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tiny_ir", "iresnet18", "mobilefacenet"])
def test_the_same_steps_give_the_same_bits(name: str, precision: Any) -> None:
    place, protection = there(precision), plugins.build("protection", "none", {})
    first = update(place, protection, batches(place, protection, {}), name)
    again = update(place, protection, batches(place, protection, {}), name)
    assert np.array_equal(first, again)


def stepped(
    net: torch.nn.Module, place: Place, made: Any, *, used: bool, rounds: int = 2
) -> tuple[list[float], list[torch.Tensor]]:
    """Return losses, and centres and parameters, after rounds of steps that are replayed, or launched one by one."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    centres = place.fed(training.head_init(5, 32, torch.Generator().manual_seed(2)))
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "USED", used)
        for number in range(rounds):
            loss = training.local_sgd(
                net, centres, HEAD, place.ahead(batch for batch in made), 0.05 / (number + 1), weight_decay=5e-4,
                centre_lr=0.1, precision=place.precision, device_batch=place.batch,
            )  # fmt: skip
            losses.append(loss)
    after = [centres, *(value.detach().clone() for value in net.parameters())]
    with torch.no_grad():
        for name, value in net.state_dict().items():
            value.copy_(before[name])
    return losses, after


@pytest.mark.parametrize("batch", [None, 8])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tiny_ir", "iresnet18", "mobilefacenet"])
def test_recorded_steps_have_the_bits_of_launched_ones(name: str, precision: Any, batch: int | None) -> None:
    place, protection = there(precision, batch), plugins.build("protection", "none", {})
    graphs.forget()
    net, whole = network(place, protection, name), batches(place, protection, {}, graphs.WARM + 2)
    data = [*whole, (whole[0][0][:7], whole[0][1][:7]), whole[0]]  # one of another shape is launched
    launched = stepped(net, place, data, used=False)
    replayed = stepped(net, place, data, used=True)
    again = stepped(net, place, data, used=True)
    assert [one.graph is not None for one in graphs._recordings] == [True]
    assert launched[0] == replayed[0] == again[0]
    for one, other, third in zip(launched[1], replayed[1], again[1], strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    assert launched[0][0] != launched[0][1]


def test_every_protections_network_is_recorded(fitted: Any) -> None:
    _, protection, state = fitted
    place = there("bf16")
    graphs.forget()
    net, data = network(place, protection), batches(place, protection, state, graphs.WARM + 3)
    found = stepped(net, place, data, used=True)
    assert [one.graph is not None for one in graphs._recordings] == [True]
    launched = stepped(net, place, data, used=False)
    assert found[0] == launched[0]
    assert all(torch.equal(one, other) for one, other in zip(found[1], launched[1], strict=True))


def test_graphs_of_two_numbers_of_classes_share_their_memory() -> None:
    place, protection = there("bf16"), plugins.build("protection", "none", {})
    graphs.forget()
    net, data = network(place, protection, "iresnet18"), batches(place, protection, {}, graphs.WARM + 2)
    found, held = [], []
    for classes in (5, 9, 5, 9):
        centres = place.fed(training.head_init(classes, 32, torch.Generator().manual_seed(2)))
        fresh = network(place, protection, "iresnet18")
        net.load_state_dict(fresh.state_dict())
        del fresh
        training.local_sgd(net, centres, HEAD, data, 0.05, precision=place.precision)
        found.append(torch.cat([value.detach().ravel() for value in net.parameters()]).clone())
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        held.append(torch.cuda.memory_reserved())
    assert len({one.graph.pool() for one in graphs._recordings}) == 1
    assert len(graphs._recordings) == 2
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    graphs.forget()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < held[-1]  # what the graphs held is given back


def test_a_step_with_no_room_beside_the_graphs_is_taken_without_them() -> None:
    place, protection = there("bf16"), plugins.build("protection", "none", {})
    graphs.forget()
    net, data = network(place, protection, "iresnet18"), batches(place, protection, {}, graphs.WARM + 2)
    training.local_sgd(net, place.fed(torch.ones(5, 32)), HEAD, data, 0.05, precision=place.precision)
    assert graphs._recordings[0].graph is not None
    calls = []

    def work() -> int:
        calls.append(len(graphs._recordings))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("as if there were no room")
        return 7

    assert graphs.with_room(work) == 7
    assert calls == [1, 0]
    training.local_sgd(net, place.fed(torch.ones(5, 32)), HEAD, data, 0.05, precision=place.precision)
    assert graphs._recordings[0].graph is not None  # recorded anew


def test_batches_made_ahead_are_the_same_ones(fitted: Any) -> None:
    _, protection, state = fitted
    place = there()
    made = list(place.ahead(batch for batch in batches(place, protection, state, 5)))
    assert len(made) == 5
    assert all(torch.equal(batch[0], features(place, protection, state)) for batch in made)


def test_bfloat16_points_where_float32_does() -> None:
    protection = plugins.build("protection", "none", {})
    exact, rough = (update(there(p), protection, batches(there(p), protection, {})) for p in ("fp32", "bf16"))
    assert exact @ rough / np.linalg.norm(exact) / np.linalg.norm(rough) > 0.98
    assert not np.array_equal(exact, rough)


@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize(
    ("channels", "groups", "side"), [(64, 8, 112), (64, 8, 56), (128, 16, 28), (256, 32, 14), (512, 64, 7), (32, 4, 5)]
)
def test_the_fused_norm_is_torchs(channels: int, groups: int, side: int, act: bool) -> None:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).cuda()

    x = (3 * drawn(3, channels, side, side) + 5).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias, slope = drawn(channels), drawn(channels), drawn(channels)
    above = drawn(3, channels, side, side).bfloat16()
    assert _fused.usable(x, groups)

    def gradients(exact: bool) -> list[torch.Tensor]:
        leaves = [value.double() if exact else value for value in (x, weight, bias, slope)]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        if exact:
            y = torch.nn.functional.group_norm(leaves[0], groups, leaves[1], leaves[2], 1e-5)
            y = torch.nn.functional.prelu(y, leaves[3]) if act else y
        else:
            y = _fused.group_norm(leaves[0], groups, leaves[1], leaves[2], 1e-5, leaves[3] if act else None)
            assert y.is_contiguous(memory_format=torch.channels_last)
        asked = leaves if act else leaves[:3]
        return [y.detach(), *torch.autograd.grad(y, asked, above.to(y.dtype))]

    for ours, theirs in zip(gradients(False), gradients(True), strict=True):
        assert float((ours.double() - theirs).norm() / theirs.norm()) < 6e-3
    assert all(torch.equal(one, other) for one, other in zip(gradients(False), gradients(False), strict=True))


def test_embeddings_are_near_the_processors() -> None:
    protection = plugins.build("protection", "none", {})
    found = [embed(network(p, protection), features(p, protection, {})).cpu() for p in (HOST, there())]
    assert apart(found[0], found[1]) < EMBEDDING


def test_learning_on_the_gpu_gives_a_state_of_the_host() -> None:
    protection = plugins.build("protection", "dctdp", {"fit_steps": 3})
    on_gpu = protection.fit(PIXELS, LABELS, 1, None, there().exact)
    on_host = protection.fit(PIXELS, LABELS, 1)
    protection.check_state(on_gpu, (32, 32))
    assert all(not tensor.is_cuda for tensor in on_gpu.values())
    assert all(apart(on_host[name], on_gpu[name]) < 0.2 for name in on_host)  # Adam's first steps are signs, too


def test_learning_again_gives_the_same_bits(fitted: Any) -> None:
    _, protection, _ = fitted
    first, again = (protection.fit(PIXELS, LABELS, 1, None, there().exact) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_full_memory_is_a_message_with_a_number_that_fits() -> None:
    place, protection = there(), plugins.build("protection", "none", {})
    net = network(place, protection)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 256 * 2**20) / total))

    def trial(count: int) -> None:
        images = torch.zeros(count, 3, 32, 32, device="cuda")
        labels, centres = torch.zeros(count, dtype=torch.int64, device="cuda"), torch.ones(5, 32, device="cuda")
        training.local_sgd(net, centres, HEAD, [(images, labels)], 1e-6)

    try:
        with pytest.raises(torch.OutOfMemoryError):
            trial(1 << 16)
        fits = device.largest(trial, 1 << 16)
        trial(fits)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 0 < fits < 1 << 16
    message = device.out_of_memory(place, 1 << 16, fits)
    assert isinstance(message, checks.UserError)
    assert f"device_batch={fits}" in str(message)


def test_an_index_beyond_the_last_gpu_is_named() -> None:
    with pytest.raises(checks.UserError, match=r"no device='cuda:63' here; there are \['cpu', 'cuda:0'"):
        device.place("cuda:63")


def test_a_client_trains_on_the_gpu_what_it_trains_here(tmp_path: Any) -> None:
    pytest.importorskip("omegaconf")
    from fedveil.federation.federation import Federation
    from fedveil_clients import sites
    from fedveil_clients import training as client
    from fedveil_clients.policy import Node

    found = []
    for word in ("cpu", "cuda", "cuda"):
        run = Federation.of([
            "study=quick", "tracking=none", "data.identities=8", "data.evaluation_identities=4", "data.pairs=8",
            "protection=none", "train.clients=2", f"device={word}",
        ])  # fmt: skip
        vault = tmp_path / f"{word}{len(found)}"
        node = Node("gpu", allow_test_seed=True, simulated=True, vault_root=str(vault), device=word)
        site = sites.open_site(run, "run", "c0001", node, {})
        tensors = get_tensors(run.backbone())
        change = client.train_round(site, 1, tensors).tensors
        found.append(np.concatenate([value.ravel() for value in change.values()]))
    assert apart(found[0], found[1]) < UPDATE
    assert np.array_equal(found[1], found[2])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tiny_ir", "iresnet18", "mobilefacenet"])
@pytest.mark.parametrize("engine", ["book_keeping", "low_memory", "loop"])
def test_clipped_sums_are_near_the_processors(engine: str, name: str, precision: Any) -> None:
    def summed(place: Place, how: str) -> tuple[torch.Tensor, torch.Tensor]:
        net = network(place, plugins.build("protection", "none", {}), name)
        rows = place.fed(training.head_init(7, 32, torch.Generator().manual_seed(2)))
        whole = classifier.Classifier(net, rows, place.precision)
        pixels = place.fed((torch.from_numpy(PIXELS).float() - 127.5) / 127.5)
        unit = place.fed(torch.arange(len(PIXELS)) // 2)
        batch = private.Batch(
            pixels, place.fed(torch.from_numpy(LABELS).long()), unit, place.fed(torch.full((len(PIXELS),), 0.5)), 10
        )
        moved = list(whole.parameters())
        found = choice.engine(how)(whole, classifier.row_losses(HEAD), batch, moved, private.Clip(0.5))
        assert all(part.dtype == torch.float32 for part in found.tensors)
        return torch.cat([part.cpu().double().ravel() for part in found.tensors]), found.norms.cpu().double()

    sums, norms = summed(there(precision), engine)
    right, exact = summed(HOST, "loop")
    if precision == "bf16":  # whose rounding turns every image's gradient a little
        assert float(sums @ right / (sums.norm() * right.norm())) > 0.95
        return
    assert float((sums - right).norm() / right.norm()) < 5e-3
    assert float(((norms - exact) / exact).abs().max()) < 5e-3
