"""MinusFace against slow, separate oracles: the affine decode, the shuffle, the release and the first phase's loss."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, stats
from torch import nn

from fedveil import checks, frequency
from fedveil.configuration import plugins
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation import training
from fedveil.models import unet
from fedveil.protections import _residue
from fedveil.protections.base import Visit
from fedveil.protections.minusface import GeneratorPhase, MinusFace
from fedveil.randomness import SecretStream, public_torch, test_key

SIZE = (16, 32)
YCC = np.array([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])
FACES = draw_faces(1, 0, identities=4, images_per_identity=3, size=32)
PUBLIC, LABELS = FACES.images(np.arange(len(FACES))), np.asarray(FACES.labels)
IMAGES = torch.from_numpy(PUBLIC[:3, :, 8:24])


def stream(*labels: str | int) -> SecretStream:
    return SecretStream(test_key(1, *labels))


def streams(count: int) -> list[SecretStream]:
    return [stream("image", index) for index in range(count)]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A generator that is not trained but does not merely copy, either."""
    network, drawn = unet.build(192, 192, 8, public_torch(1, "test")), public_torch(1, "biases")
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if name.endswith("bias"):  # they start at 0, where nobody would miss them
                tensor.normal_(0.0, 0.1, generator=drawn)
    tensors = {_residue.PREFIX + name: tensor.detach() for name, tensor in network.named_parameters()}
    return {**tensors, "unit": _residue.units(torch.from_numpy(PUBLIC)), "spread": torch.tensor(0.1)}


def resample(length: int) -> np.ndarray:
    """Bilinear x1/8, ends aligned, as a matrix, from the definition."""
    matrix = np.zeros((length, 8 * length))
    for k in range(length):
        position = k * (8 * length - 1) / (length - 1)
        left = min(int(np.floor(position + 1e-9)), 8 * length - 1)
        matrix[k, left] += 1 - (position - left)
        matrix[k, min(left + 1, 8 * length - 1)] += position - left
    return matrix


def slow_decode(coefficients: np.ndarray) -> np.ndarray:
    """Block inverse DCT to 8H x 8W, resample, colours; (192, H, W) in units of white to (3, H, W), no clamp."""
    _, height, width = coefficients.shape
    large = np.zeros((3, 8 * height, 8 * width))
    for i, j in itertools.product(range(height), range(width)):
        blocks = coefficients[:, i, j].reshape(3, 8, 8)
        large[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = fft.idctn(blocks, axes=(1, 2), norm="ortho")
    planes = np.einsum("iy,cyx,jx->cij", resample(height), large, resample(width))
    planes[0] += 128 / 255
    return np.einsum("rc,cij->rij", np.linalg.inv(YCC), planes)


def coefficients(seed: int, size: tuple[int, int] = (4, 6), scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, 192, *size, generator=generator, dtype=torch.float64)


def test_the_decode_is_the_published_inverse_before_its_clamp() -> None:
    values = coefficients(1, scale=5.0)
    expected = np.stack([slow_decode(one.numpy()) for one in values])
    assert expected.min() < -5
    assert expected.max() > 5
    assert np.abs(_residue.decode(values).numpy() - expected).max() < 1e-9
    inside = frequency.published_inverse(255 * values)
    assert np.abs(inside.numpy() - 255 * expected.clip(0, 1)).max() < 1e-6
    some = [9, 0, 63]
    absent = torch.zeros_like(values).view(2, 3, 64, 4, 6)
    absent[:, :, some] = values.view(2, 3, 64, 4, 6)[:, :, some]
    kept = absent[:, :, some].flatten(1, 2)
    assert torch.equal(frequency.published_decode(kept, some, white=1.0), _residue.decode(absent.flatten(1, 2)))


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_the_decode_is_affine_far_outside_the_range_of_pictures(scale: float) -> None:
    a, b = coefficients(2, scale=scale), coefficients(3, scale=scale)
    zero = _residue.decode(0 * a)
    whole = _residue.decode(a + b) - zero
    assert whole.abs().max() > 2 * scale / 10
    assert (whole - (_residue.decode(a) - zero) - (_residue.decode(b) - zero)).abs().max() < 1e-11 * scale
    assert (_residue.decode(-3 * a) - zero + 3 * (_residue.decode(a) - zero)).abs().max() < 1e-11 * scale
    clamped = [_residue.decode(x).clamp(0, 1) - zero for x in (a + b, a, b)]
    assert (clamped[0] - clamped[1] - clamped[2]).abs().max() > 0.1, "with a clamp this test would fail"


def test_gradients_pass_the_decode_outside_the_range_too() -> None:
    values = coefficients(4, (2, 3), scale=50.0)[:1].requires_grad_()
    assert torch.autograd.gradcheck(_residue.decode, (values,), fast_mode=True)
    decoded = _residue.decode(values)
    outside = (decoded < 0) | (decoded > 1)
    assert bool(outside.all(1).any())
    (gradient,) = torch.autograd.grad(decoded.square().sum(), values)
    assert bool((gradient != 0).any(1).all())


def test_decoding_the_encoding_nearly_returns_the_face() -> None:
    images = torch.from_numpy(PUBLIC)
    error = (_residue.to_unit(images) - (2 * _residue.decode(_residue.encode(images, torch.ones(192))) - 1)).abs()
    assert 0.001 < float(error.mean()) < 0.01, "the floor of the image error: small, and not zero"


def test_an_empty_residue_is_mid_grey(state: dict[str, torch.Tensor]) -> None:
    zero = _residue.decode(torch.zeros(1, 192, 8, 8))
    assert torch.equal(zero, torch.full_like(zero, 128 / 255))
    copies = unet.build(192, 192, 8, public_torch(1), copied=_residue.DC)
    tensors = {_residue.PREFIX + name: tensor.detach() for name, tensor in copies.named_parameters()}
    grey = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)  # every coefficient is 0, and the network has no bias yet
    method = MinusFace()
    released = method.release(grey, {**state, **tensors}, streams(1))
    assert (released - 128 / 255).abs().max() < 1e-5
    assert torch.equal(method.render(released, state, (16, 16)), grey)


def chi_square_of_orders(draw: Any, draws: int = 6000) -> float:
    counts = Counter(tuple(int(k) for k in draw()) for _ in range(draws))
    return float(stats.chisquare([counts[order] for order in itertools.permutations(range(4))]).pvalue)


def test_all_orders_are_equally_likely() -> None:
    secret = stream("orders")
    assert chi_square_of_orders(lambda: _residue.permutation(secret, 4)) > 1e-4
    rng = np.random.default_rng(1)

    def careless() -> list[int]:
        order = list(range(4))
        for k in range(4):
            other = int(rng.integers(4))  # the well-known mistake: any place instead of a later one
            order[k], order[other] = order[other], order[k]
        return order

    assert chi_square_of_orders(careless) < 1e-12, "the test sees a biased shuffle"


def test_channel_0_lands_everywhere_and_colours_mix() -> None:
    secret = stream("positions")
    orders = np.stack([_residue.permutation(secret) for _ in range(4000)])
    assert np.array_equal(np.sort(orders, 1), np.broadcast_to(np.arange(192), orders.shape))
    places = np.bincount((orders == 0).argmax(1), minlength=192)
    assert stats.chisquare(places).pvalue > 1e-4
    crossed = float((orders // 64 != np.arange(192) // 64).mean())
    assert crossed == pytest.approx(128 / 192, abs=0.005)


def test_equal_draws_are_drawn_again() -> None:
    class Ties:
        def __init__(self) -> None:
            self.answers = [np.array([0.5, 0.2, 0.5]), np.array([0.9, 0.3, 0.1])]

        def uniform(self, count: int) -> np.ndarray:
            return self.answers.pop(0)

    drawn: Any = Ties()
    assert _residue.permutation(drawn, 3).tolist() == [2, 1, 0]
    assert not drawn.answers


@pytest.mark.parametrize("stacks", [1, 2])
def test_the_release_equals_a_slow_oracle(state: dict[str, torch.Tensor], stacks: int) -> None:
    released = MinusFace(stacks=stacks).release(IMAGES, state, streams(len(IMAGES)))
    assert released.shape == (3, 3 * stacks, *SIZE)
    network = unet.build(192, 192, 8, public_torch(2)).double()
    network.load_state_dict(_residue.parameters(state))
    unit = state["unit"].double().view(192, 1, 1)
    saturated = 0
    for index, twin in enumerate(streams(len(IMAGES))):
        encoded = frequency.upsampled_dct(IMAGES[index : index + 1]).double() / 255
        with torch.no_grad():
            generated = unit * network(encoded / unit)
        residue = (encoded - generated)[0].numpy()
        for stack in range(stacks):
            order = np.argsort(twin.uniform(192))
            shuffled = np.empty_like(residue)
            for place, channel in enumerate(order):
                shuffled[place] = residue[channel]
            expected = slow_decode(shuffled)
            saturated += int((expected < 0).sum() + (expected > 1).sum())
            got = released[index, 3 * stack : 3 * stack + 3].numpy()
            assert np.abs(got - expected.clip(0, 1)).max() < 1e-4
    assert saturated, "the clamp was exercised"
    assert float(released.min()) >= 0
    assert float(released.max()) <= 1


def test_training_reads_shuffled_images_like_those_that_leave(state: dict[str, torch.Tensor]) -> None:
    method, keys = MinusFace(stacks=2), [b"one", b"two", b"three"]
    left = method.features(method.release(IMAGES, state, streams(3)), state)
    given = method.prepared(IMAGES, state)
    assert torch.equal(method.training_features(IMAGES, state, Visit(streams(3), keys, given)), left)
    assert not torch.equal(left, method.features(method.clean(IMAGES, state), state))
    with pytest.raises(checks.UserError, match="stream"):
        method.training_features(IMAGES, state, Visit(streams(1) * 3, keys, given))


def test_stacks_and_images_have_their_own_orders(state: dict[str, torch.Tensor]) -> None:
    method = MinusFace(stacks=2)
    same = IMAGES[:1].expand(2, -1, -1, -1)
    parts = method.release(same, state, streams(2)).reshape(4, 3, *SIZE)
    for one, two in itertools.combinations(parts, 2):
        assert float((one - two).abs().mean()) > 0.01
    clean = method.clean(same, state).reshape(4, 3, *SIZE)
    assert all(torch.equal(one, clean[0]) for one in clean)
    assert method.payload(SIZE) == 4 * 6 * 16 * 32


def test_the_generator_is_frozen(state: dict[str, torch.Tensor]) -> None:
    watched = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    released = MinusFace().release(IMAGES, watched, streams(len(IMAGES)))
    assert not released.requires_grad
    assert all(torch.equal(watched[name], state[name]) and tensor.grad is None for name, tensor in watched.items())
    # Plain tensors, which a recogniser's backward pass may keep (tensors of inference mode may not).
    weight = torch.ones(1, requires_grad=True)
    (weight * released).sum().backward()


def test_the_fingerprint_pins_the_generator(state: dict[str, torch.Tensor]) -> None:
    method = MinusFace()
    mark = _residue.fingerprint(state)
    assert len(mark) == 64
    assert mark[:32] in method.event(SIZE, state).reason
    assert mark == _residue.fingerprint(dict(reversed(state.items())))
    for name in ("generator/up.2.0.bias", "unit"):
        other = {**state, name: state[name].clone()}
        other[name][3] += 1e-6
        assert _residue.fingerprint(other) != mark
    with pytest.raises(checks.UserError, match="generator"):
        method.release(IMAGES, {**state, "generator/last.bias": torch.zeros(3)}, streams(3))
    with pytest.raises(checks.UserError, match="generator"):
        MinusFace(generator_width=16).release(IMAGES, state, streams(3))


def test_the_first_phases_loss_equals_the_formula(state: dict[str, torch.Tensor]) -> None:
    class Sums(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum((2, 3))

    network = unet.build(192, 192, 8, public_torch(3))
    with torch.no_grad():
        network.last.weight *= 5.0  # far outside [-1, 1], where a clamp would show
    joint = _residue.GeneratorWithRecogniser(network, Sums(), state["unit"], 5.0)
    pictures = _residue.to_unit(IMAGES)
    embeddings, penalty = joint.with_penalty(pictures)
    unit = state["unit"].double().view(192, 1, 1)
    encoded = frequency.upsampled_dct(IMAGES).double() / 255
    generated = unit * network.double()(encoded / unit).detach()
    decoded = np.stack([2 * slow_decode(one.numpy()) - 1 for one in generated])
    assert np.abs(decoded).max() > 2
    expected = 5 * np.abs(pictures.numpy().astype(np.float64) - decoded).mean()
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-4)
    residue = (encoded - generated) / unit
    torch.testing.assert_close(embeddings.double(), residue.sum((2, 3)), rtol=1e-3, atol=0.05)


def test_fit_lowers_the_image_error_of_its_start() -> None:
    half = np.ascontiguousarray(PUBLIC[:, :, ::2, ::2])
    images = torch.from_numpy(half)
    errors = []
    for steps in (1, 12):
        told: list[tuple[int, int]] = []
        fitted = MinusFace(fit_steps=steps, image_weight=50.0).fit(half, LABELS, 1, lambda *at, to=told: to.append(at))
        assert told == [(step + 1, steps) for step in range(steps)]
        network = unet.build(192, 192, 8, public_torch(1))
        network.load_state_dict(_residue.parameters(fitted))
        joint = _residue.GeneratorWithRecogniser(network, nn.Flatten(), fitted["unit"], 1.0)
        errors.append(float(joint.with_penalty(_residue.to_unit(images))[1].detach()))
        released = MinusFace().release(images, fitted, streams(len(images)))
        assert float(MinusFace().features(released, fitted).square().mean().sqrt()) == pytest.approx(1, abs=0.3)
    assert errors[1] < 0.95 * errors[0]
    with pytest.raises(checks.UserError, match="2 people"):
        MinusFace().fit(half[:3], LABELS[:3], 1)


def test_no_phase_unless_asked_for() -> None:
    assert MinusFace().phases == ()
    (phase,) = MinusFace(federated_rounds=4).phases
    assert (phase.name, phase.rounds) == ("generator", 4)


def test_the_phase_trains_the_generator_and_forgets_the_recogniser(state: dict[str, torch.Tensor]) -> None:
    method = MinusFace(federated_rounds=1)
    phase = GeneratorPhase(method)
    model = plugins.build("model", "tiny_ir", {"width": 8, "embedding": 8})
    network = phase.network(model, SIZE, state, public_torch(1, "phase"))
    assert not list(network.buffers())
    start = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    for name, tensor in _residue.parameters(state).items():
        assert torch.equal(start[f"generator.{name}"], tensor)
    features = phase.features(IMAGES, state, Visit(streams(3), [b"a", b"b", b"c"]))
    assert features.shape == (3, 3, *SIZE)
    head, centres = plugins.build("head", "cosface", {}), torch.randn(3, 8, generator=public_torch(2))
    batch = [(features, torch.tensor([0, 1, 2]))]
    loss = training.local_sgd(network, centres, head, batch, 0.01)
    assert np.isfinite(loss)
    after = {name: tensor.detach().numpy().copy() for name, tensor in network.named_parameters()}
    assert all(not np.array_equal(after[name], start[name].numpy()) for name in after if name.startswith("generator."))
    crop = np.ascontiguousarray(PUBLIC[:, :, 8:24])
    finished, warm = phase.finish(after, state, crop, LABELS, 1)
    assert warm == {}
    assert set(finished) == set(state)
    for name, tensor in finished.items():
        if name.startswith(_residue.PREFIX):
            assert np.array_equal(tensor.numpy(), after[name.replace(_residue.PREFIX, "generator.")])
    assert _residue.fingerprint(finished) != _residue.fingerprint(state)
    assert not torch.equal(finished["spread"], state["spread"])
    method.release(IMAGES, finished, streams(3))
    del after["generator.last.bias"]
    with pytest.raises(checks.UserError, match="generator"):
        phase.finish(after, state, crop, LABELS, 1)


@pytest.mark.parametrize("size", [(8, 16), (16, 40)])
def test_sizes_that_cannot_be_halved_four_times_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(checks.UserError, match="multiple of 16"):
        MinusFace().representation(size)


@pytest.mark.parametrize("bad", [{"generator_width": 5}, {"stacks": 0}, {"views": 0}, {"fit_steps": 0}])
def test_bad_settings_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(checks.UserError, match=next(iter(bad))):
        MinusFace(**bad)
    assert MinusFace().views == 3
