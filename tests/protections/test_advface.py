"""AdvFace against a slow re-implementation, its ball, its effect on held-out people, and the hand-over of its phase."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedveil.checks import UserError
from fedveil.configuration import plugins
from fedveil.data.sources.procedural import draw_faces
from fedveil.models.heads import base as heads
from fedveil.privacy.events import NonPrivate
from fedveil.protections import _advface
from fedveil.protections.advface import AdvFace
from fedveil.protections.base import Visit
from fedveil.randomness import SecretStream, public_torch, test_key

SIZE = (16, 16)
PUBLIC = draw_faces(1, 10**9, identities=20, images_per_identity=6, size=16)
FACES, LABELS = PUBLIC.images(np.arange(len(PUBLIC))), np.asarray(PUBLIC.labels)
HELD_OUT = torch.from_numpy(draw_faces(1, 7, identities=10, images_per_identity=1, size=16).images(np.arange(10)))
METHOD = AdvFace(width=8, fit_steps=40, shadow_ratio=3)
State = dict[str, torch.Tensor]


def streams(count: int, purpose: str = "a") -> list[SecretStream]:
    return [SecretStream(test_key(1, purpose, index)) for index in range(count)]


@pytest.fixture(scope="module")
def state() -> State:
    return METHOD.fit(FACES, LABELS, 1)


@pytest.fixture(scope="module")
def guarded() -> tuple[AdvFace, State]:
    method = dataclasses.replace(METHOD, guard=5.0, fit_steps=15)
    return method, method.fit(FACES, LABELS, 1)


def pictures(images: torch.Tensor) -> torch.Tensor:
    return images / 127.5 - 1.0


# A slow road to the same networks: matrices of patches, norms by hand, one image at a time.
def conv(x: torch.Tensor, weight: torch.Tensor, stride: int = 1) -> torch.Tensor:
    patches = torch.nn.functional.unfold(x[None], 3, padding=1, stride=stride)[0]
    side = (x.shape[1] + stride - 1) // stride
    return (weight.flatten(1) @ patches).reshape(len(weight), side, side)


def norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    groups = torch.stack([g - g.mean() for g in x.split(8)])
    groups = groups / (groups.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    return groups.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]


def prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, slope[:, None, None] * x)


def slow_f1(x: torch.Tensor, s: State) -> torch.Tensor:
    x = norm(conv(x, s["f1/conv.weight"]), s["f1/norm.weight"], s["f1/norm.bias"])
    x = prelu(x, s["f1/act.weight"])
    y = norm(conv(x, s["f1/unit.conv1.weight"], 2), s["f1/unit.norm1.weight"], s["f1/unit.norm1.bias"])
    y = conv(prelu(y, s["f1/unit.act.weight"]), s["f1/unit.conv2.weight"])
    return norm(y, s["f1/unit.norm2.weight"], s["f1/unit.norm2.bias"]) + x[:, ::2, ::2]


def slow_shadow(z: torch.Tensor, s: State) -> torch.Tensor:
    for block in range(2):
        if block == 1:
            z = z.repeat_interleave(2, 1).repeat_interleave(2, 2)
        z = conv(z, s[f"shadow/blocks.{block}.conv.weight"])
        z = norm(z, s[f"shadow/blocks.{block}.norm.weight"], s[f"shadow/blocks.{block}.norm.bias"]).clamp(min=0)
    return conv(z, s["shadow/last.weight"]).tanh()


def slow_delta(variant: str, z: torch.Tensor, start: torch.Tensor, s: State, radius: float, steps: int) -> torch.Tensor:
    fixed = slow_shadow(z, s).detach()
    around = slow_f1(fixed, s).detach() if variant == "cycle" else z
    delta = start.clone()
    for _ in range(steps):
        delta.requires_grad_(True)
        torch.autograd.backward((slow_shadow(around + delta, s) - fixed).pow(2).sum())
        assert delta.grad is not None
        moved = delta.detach() + 2.5 * radius / steps * torch.sign(delta.grad)
        delta = torch.minimum(torch.maximum(moved, torch.tensor(-radius)), torch.tensor(radius))
    return delta


@pytest.mark.parametrize("variant", ["cycle", "direct"])
def test_the_noise_equals_the_formula_computed_slowly_in_double_precision(state: State, variant: str) -> None:
    double = {name: value.double() for name, value in state.items()}
    method = dataclasses.replace(METHOD, variant=variant)
    networks = method._networks(double)
    x = pictures(HELD_OUT[:3].double())
    z = networks["f1"](x)
    radius = float(state["sigma"])
    start = radius * (torch.rand(z.shape, generator=public_torch(1, "start"), dtype=torch.float64) - 0.5)
    loss = _advface.objective(variant, z, networks["f1"], networks["shadow"], None, 0.0)
    fast = _advface.ascend(loss, start, radius, 6)
    for index in range(3):
        slow_z = slow_f1(x[index], double)
        torch.testing.assert_close(slow_z, z[index])
        slow = slow_delta(variant, slow_z, start[index], double, radius, 6)
        torch.testing.assert_close(fast[index], slow, rtol=0, atol=1e-9)


def test_a_release_is_the_features_plus_that_noise_from_the_start_of_its_stream(state: State) -> None:
    method = dataclasses.replace(METHOD, steps=3)
    released = method.release(HELD_OUT[:2], state, streams(2))
    radius = float(state["sigma"])
    for index, stream in enumerate(streams(2)):
        z = slow_f1(pictures(HELD_OUT[index]), state)
        start = torch.from_numpy((stream.uniform(z.numel()) - 0.5) * radius).float().reshape(z.shape)
        expected = z + slow_delta("cycle", z, start, state, radius, 3)
        close = torch.isclose(released[index], expected, rtol=0, atol=1e-3 * radius)
        assert float(close.float().mean()) > 0.98, "in single precision a tiny gradient may change its sign"


def mean_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().flatten(1).mean(1)


def properties(method: AdvFace, state: State) -> dict[str, bool]:
    """Return what must hold on people whom neither f1 nor the shadow model has seen."""
    z, released = method.clean(HELD_OUT, state), method.release(HELD_OUT, state, streams(len(HELD_OUT)))
    shadow = method._networks(state)["shadow"]
    delta = released - z
    radius = method.strength * float(state["sigma"])
    signs = torch.randn(z.shape, generator=public_torch(1, "signs")).sign()
    equal_norm = signs * delta.square().flatten(1).mean(1).sqrt()[:, None, None, None]
    truth = pictures(HELD_OUT)
    with torch.no_grad():
        adversarial = mean_square(shadow(released), truth)
        random, plain = mean_square(shadow(z + equal_norm), truth), mean_square(shadow(z), truth)
    return {
        "in the ball": float(delta.abs().max()) <= radius * (1 + 1e-5) + 1e-5,
        "fills the ball": float(delta.abs().mean()) > 0.3 * radius,
        "beats random signs of its size": bool((adversarial > 1.5 * random).all()),
        "the shadow model draws clean faces": float(plain.mean()) < 0.5 * float(truth.var()),
    }


@pytest.mark.parametrize("variant", ["cycle", "direct"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_noise_stays_in_its_ball_and_beats_random_signs(state: State, variant: str, strength: float) -> None:
    assert properties(dataclasses.replace(METHOD, variant=variant, strength=strength), state) == dict.fromkeys(
        ("in the ball", "fills the ball", "beats random signs of its size", "the shadow model draws clean faces"), True
    )


def unprojected(loss: _advface.Loss, start: torch.Tensor, radius: float, steps: int) -> torch.Tensor:
    delta = start
    for _ in range(steps):
        leaf = delta.detach().requires_grad_(True)
        delta = leaf.detach() + 2.5 * radius / steps * torch.autograd.grad(loss(leaf), leaf)[0].sign()
    return delta


REAL_ASCEND = _advface.ascend
MUTANTS: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "no projection": (unprojected, "in the ball"),
    "descent": (lambda loss, *rest: REAL_ASCEND(lambda d: -loss(d), *rest), "beats random signs of its size"),
    "start only": (lambda loss, start, radius, steps: start, "fills the ball"),
    "random": (lambda loss, start, radius, steps: radius * start.sign(), "beats random signs of its size"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_properties_catch_a_wrong_ascent(state: State, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, broken = MUTANTS[mutant]
    monkeypatch.setattr(_advface, "ascend", wrong)
    assert not properties(METHOD, state)[broken]


def test_direct_from_zero_has_no_gradient_at_all_and_cycle_has(state: State) -> None:
    networks = METHOD._networks(state)
    z = METHOD.clean(HELD_OUT, state)
    moved = {}
    for variant in ("cycle", "direct"):
        loss = _advface.objective(variant, z, networks["f1"], networks["shadow"], None, 0.0)
        moved[variant] = _advface.ascend(loss, torch.zeros_like(z), 1.0, 4)
    assert float(moved["direct"].abs().max()) == 0.0
    assert float(moved["cycle"].abs().mean()) > 0.5


def test_features_have_both_signs_so_none_is_cut(state: State) -> None:
    negative = [
        float((values < 0).float().mean())
        for values in (METHOD.clean(HELD_OUT, state), METHOD.release(HELD_OUT, state, streams(len(HELD_OUT))))
    ]
    assert all(0.1 < share < 0.9 for share in negative)
    assert abs(negative[0] - negative[1]) < 0.2


def test_an_image_may_stand_anywhere_in_a_batch_of_any_size(state: State) -> None:
    whole = METHOD.release(HELD_OUT, state, streams(10))
    order = torch.tensor([9, 3, 0, 7, 5])
    some = METHOD.release(HELD_OUT[order], state, [streams(10)[index] for index in order.tolist()])
    assert torch.equal(whole[order], some)


def test_the_guard_keeps_the_public_embedding_closer(guarded: tuple[AdvFace, State]) -> None:
    method, state = guarded
    assert any(name.startswith("tail/") for name in state)
    tail = method._networks(state)["tail"]

    def cosine(guard: float) -> torch.Tensor:
        chosen = dataclasses.replace(method, guard=guard)
        released = chosen.release(HELD_OUT, state, streams(len(HELD_OUT)))
        with torch.no_grad():
            one, two = (heads.normalised(tail(values)) for values in (released, chosen.clean(HELD_OUT, state)))
        return (one * two).sum(1)

    weak, strong = cosine(0.001), cosine(5.0)
    assert bool((1 - strong < 0.5 * (1 - weak)).all())
    with pytest.raises(UserError, match="state"):
        METHOD.clean(HELD_OUT, state)  # a state with a tail belongs to a guarded method


def test_training_the_shadow_model_leaves_f1_alone() -> None:
    stem = _advface.skeleton(_advface.Stem, 8)
    plain = dataclasses.replace(METHOD, fit_steps=4).fit(FACES, LABELS, 3)
    longer = dataclasses.replace(METHOD, fit_steps=4, shadow_ratio=6).fit(FACES, LABELS, 3)
    names = [f"f1/{name}" for name, _ in stem.named_parameters()]
    assert all(torch.equal(plain[name], longer[name]) for name in names)
    assert not torch.equal(plain["shadow/last.weight"], longer["shadow/last.weight"])
    z = METHOD.clean(torch.from_numpy(FACES), plain)
    assert float(plain["sigma"]) == pytest.approx(float(z.std(unbiased=False)), rel=1e-4)


def test_fine_tune_changes_what_is_trained_on_and_nothing_else(state: State) -> None:
    tuned = dataclasses.replace(METHOD, fine_tune=True)
    keys = [b"somebody"] * 4
    images = HELD_OUT[:4]
    assert torch.equal(tuned.release(images, state, streams(4)), METHOD.release(images, state, streams(4)))
    clean = METHOD.training_features(images, state, Visit(streams(4), keys))
    assert torch.equal(clean, METHOD.features(METHOD.clean(images, state), state))
    protected = METHOD.features(METHOD.release(images, state, streams(4)), state)
    assert torch.equal(tuned.training_features(images, state, Visit(streams(4), keys)), protected)
    again = dataclasses.replace(tuned, fit_steps=1).fit(FACES, LABELS, 1)
    same = dataclasses.replace(METHOD, fit_steps=1).fit(FACES, LABELS, 1)
    assert all(torch.equal(again[name], same[name]) for name in same)


@pytest.mark.parametrize("guard", [0.0, 5.0])
def test_the_recogniser_goes_on_where_the_phase_ended(guard: float) -> None:
    size = 32  # the smallest picture whose features a backbone takes
    drawn = draw_faces(1, 10**9, identities=3, images_per_identity=2, size=size)
    faces, labels = drawn.images(np.arange(6)), np.asarray(drawn.labels)
    method = AdvFace(width=8, fit_steps=2, shadow_ratio=2, split_rounds=4, guard=guard)
    state = method.fit(faces, labels, 1)
    before = {name: value.clone() for name, value in state.items()}
    (phase,) = method.phases
    assert phase.rounds == 4
    model = plugins.build("model", "tiny_ir", {"width": 8, "embedding": 8})
    network = phase.network(model, (size, size), state, public_torch(1, "network"))
    assert not list(network.buffers())
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"f1", "model"}
    images = torch.from_numpy(faces)
    fed = phase.features(images, state, Visit())
    generator = public_torch(1, "rounds")
    with torch.no_grad():
        start = network.f1.conv.weight.clone()
        assert torch.equal(start, state["f1/conv.weight"])
        for parameter in network.parameters():  # what the rounds may have made of it
            assert parameter.requires_grad
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        ended = network(fed)
    tensors = {name: value.detach().numpy().copy() for name, value in network.named_parameters()}
    steps: list[tuple[int, int]] = []
    after, following = phase.finish(tensors, state, faces, labels, 1, lambda done, of: steps.append((done, of)))
    assert steps[-1] == (len(steps), len(steps))
    assert all(torch.equal(state[name], before[name]) for name in before), "the given state is not changed"
    assert set(after) == set(state)
    assert np.array_equal(after["f1/conv.weight"].numpy(), tensors["f1.conv.weight"])
    assert torch.equal(after["scale"], state["scale"])
    assert not torch.equal(after["shadow/last.weight"], state["shadow/last.weight"])
    assert ("tail/embed.weight" in after) is (guard > 0)
    z = method.clean(images, after)
    assert float(after["sigma"]) == pytest.approx(float(z.std(unbiased=False)), rel=1e-4)
    main = method.network(model, (size, size), public_torch(2, "main"))
    assert {name for name, _ in main.named_parameters()} == set(following)
    with torch.no_grad():
        for name, parameter in main.named_parameters():
            parameter.copy_(torch.from_numpy(following[name]))
        torch.testing.assert_close(main(method.features(z, after)), ended, rtol=1e-4, atol=1e-5)
    again, _ = phase.finish(tensors, state, faces, labels, 1)
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_no_phase_without_rounds() -> None:
    assert AdvFace(split_rounds=0).phases == ()


def test_shapes_payload_and_no_claim(state: State) -> None:
    assert AdvFace().representation((32, 32)) == AdvFace().layout((32, 32)) == (16, 16, 16)
    assert AdvFace(width=64).representation((112, 112)) == (64, 56, 56)
    assert AdvFace(width=64).payload((112, 112)) == 4 * 64 * 56 * 56
    assert isinstance(METHOD.event(SIZE, state), NonPrivate)
    with pytest.raises(UserError, match="height"):
        METHOD.representation((15, 16))
    with pytest.raises(UserError, match="released"):
        METHOD.features(torch.zeros(1, 16, 8, 8), state)
    with pytest.raises(UserError, match="state"):
        METHOD.release(HELD_OUT, {**state, "sigma": torch.tensor(float("nan"))}, streams(10))
    with pytest.raises(UserError, match="2 people"):
        METHOD.fit(FACES[:3], np.zeros(3, np.int64), 1)


@pytest.mark.parametrize(
    "wrong",
    [{"width": 12}, {"strength": 0.0}, {"steps": 0}, {"variant": "cycl"}, {"guard": -1.0}, {"shadow_norm": 3},
     {"fit_steps": 0}, {"shadow_ratio": 0}, {"split_rounds": -1}, {"shadow_width": 4}],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        AdvFace(**wrong)  # type: ignore[arg-type]
